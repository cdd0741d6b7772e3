// SPDX-License-Identifier: GPL-3.0-or-later
//! Tap devices in network namespaces, made by a small helper executable and used by a process without any privilege.
//!
//! A test wants a tap device that lives in the network namespace of a container, and wants to hand its descriptor to QEMU.
//! Whoever works there needs `CAP_NET_ADMIN` in that namespace, which the test has not. So a static executable, the helper, is
//! started where the privilege is (in a one-off container, or under `unshare`, `nsenter`, `sudo`); it connects to a socket of
//! the test's, carries out a [`Request`] and sends the taps back as descriptors. Nothing ever exists in the namespace of the
//! test: no name to collide, nothing to remove.
//!
//! ```
//! # #![allow(clippy::disallowed_methods)]
//! # use std::process::Command;
//! use std::time::Duration;
//!
//! use alpy_netns::{InterfaceName, LinkChange, Listener, Request};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # alpy_need::need!(tun, user_namespaces => Ok(()));
//! # let folder = tempfile::tempdir()?;
//! # let helper = folder.path().join("helper");
//! # std::fs::write(folder.path().join("bytes"), alpy_netns::HELPER)?;
//! # Command::new("install").arg("-m755").arg(folder.path().join("bytes")).arg(&helper).status()?;
//! let listener = Listener::bind_in(folder.path())?;
//! let mut child = Command::new("unshare")
//!     .arg("-Urn")
//!     .arg(&helper)
//!     .arg("serve")
//!     .arg(listener.socket())
//!     .spawn()?;
//! let mut session = listener.accept(Duration::from_secs(10)).await?;
//!
//! let eth0: InterfaceName = "eth0".parse()?;
//! let request = Request::new()
//!     .tap(eth0.clone())
//!     .link(LinkChange::of(eth0.clone()).without_ipv6_link_local().up())
//!     .address(eth0.clone(), "192.168.0.1/24".parse()?)
//!     .inspect(eth0);
//! let answer = session.run(&request, Duration::from_secs(10)).await?;
//!
//! assert_eq!(answer.taps.len(), 1); // for QEMU's `-netdev tap,id=net0,fd=N`
//! assert!(answer.links[0].up);
//! drop(session); // the helper ends; the tap lives as long as its descriptor
//! # child.wait()?;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Listener`]: start here; the socket that a helper connects to, made to be mounted into its container.
//! - [`Session`]: a helper that has connected; [`Session::run`] has it carry out a request.
//! - [`Loan`]: what `hold SOCKET` lends of its namespace to a helper elsewhere; [`Session::run_on`] uses it.
//! - [`Gauge`]: a look at the state and the counters of a link ([`LinkState`]), without a helper.
//! - [`set_carrier`]: a tap's cable, pulled and plugged.
//! - [`Request`]: what to do: taps, links ([`LinkChange`]), addresses, routes ([`Route`]), impairments ([`Impairment`]), inspections; all of it or nothing.
//! - [`Answer`]: the taps' descriptors and the inspected links ([`LinkInfo`], [`Counters`]).
//! - [`InterfaceName`], [`MacAddr`], [`IpPrefix`], [`Namespace`]: the values, checked when they are made.
//! - [`Error`], [`Failure`]: what went wrong, at which step, with which value.
//! - [`Operation`], [`Reply`]: what goes over the socket, for a helper or a test of one's own.
//!
//! Features, none on by default:
//!
//! - `embed`: `HELPER`, the executable's bytes, `image_tar` and `HELPER_HASH`, of which a container image and its tag are made, and
//!   `Guardian`, a process that removes what a killed one leaves.
//!   The build script runs a second cargo for it and needs a static C library (part of `libc6-dev` on Debian).
//!   `ALPY_NETNS_PREBUILT_HELPER=/path` in the build's environment gives it an executable built elsewhere.
//! - `helper`: the module `helper` and the executable `alpy-netns-helper`, on rtnetlink. `alpy-netns-helper once` reads a single request
//!   from its input, as JSON, and needs no socket.
//!
//! In a container, the helper needs `--cap-drop ALL --cap-add NET_ADMIN --device /dev/net/tun` and nothing else: it may run
//! read-only, with no new privileges, with a rootful engine and with a rootless one. (There, and in a user namespace,
//! `/dev/net/tun` has to be open to all, which is udev's default.) A holder that lends needs the device, and no capability. To move a link to a namespace that is named by its path, that
//! path has to be mounted; by a process, `--pid host`. Docker turns IPv6 off in a namespace without networks: the node needs
//! `--sysctl net.ipv6.conf.all.disable_ipv6=0 --sysctl net.ipv6.conf.default.disable_ipv6=0` for addresses of that version.

mod carrier;
mod error;
mod gauge;
mod listener;
mod loan;
mod session;

mod impairment;
mod link_change;
mod reply;
mod request;
mod route;

mod mac;
mod name;
mod prefix;

#[cfg(any(feature = "embed", feature = "helper"))]
mod ward;
mod wire;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

#[cfg(feature = "embed")]
mod embedded;
#[cfg(feature = "embed")]
mod guardian;
#[cfg(feature = "helper")]
pub mod helper;

pub use carrier::set_carrier;
#[cfg(feature = "embed")]
pub use embedded::{HELPER, HELPER_HASH, HELPER_PATH, image_tar};
pub use error::{Error, Result};
pub use gauge::{Gauge, LinkState};
#[cfg(feature = "embed")]
pub use guardian::Guardian;
pub use impairment::Impairment;
pub use link_change::LinkChange;
pub use listener::Listener;
pub use loan::Loan;
pub use mac::MacAddr;
pub use name::InterfaceName;
pub use prefix::IpPrefix;
pub use reply::{Answer, Counters, Failure, LinkInfo, Reply};
pub use request::{Namespace, Operation, Request, TapEnd};
pub use route::Route;
pub use session::Session;
