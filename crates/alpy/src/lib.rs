// SPDX-License-Identifier: GPL-3.0-or-later
//! Test network virtual appliances: a QEMU machine whose NICs are tap devices in containers' network namespaces, with nothing in
//! the middle.
//!
//! This test runs as it stands: `cargo xtask images` in alpy's sources builds the router and the container image, and `ALPY_IMAGES` names
//! the folder that it prints, `target/alpy/images`.
//!
//! ```no_run
//! use alpy::console::Guest;
//! use alpy::docker::Tar;
//! use alpy::qemu::Machine;
//! use alpy::{Failure, Link, TestResult, Testbed, step};
//!
//! #[test]
//! fn forwards_ipv4() -> Result<(), Failure> {
//!     let images = std::env::var("ALPY_IMAGES").expect("ALPY_IMAGES is set") + "/current";
//!     let (kernel, initrd) = (format!("{images}/kernel"), format!("{images}/initrd"));
//!     Testbed::builder("forwards-ipv4")
//!         .machine(Machine::new().kernel(kernel).initrd(initrd).append("console=ttyS0 quiet").memory_mib(256))
//!         .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
//!         .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
//!         .run_blocking(async |bed| -> TestResult {
//!             bed.start_cpu().await?;
//!             let mut router = bed.dut(0).log_in(&Guest::busybox()).await?;
//!             router.run("ip address add 192.168.0.2/24 dev eth0 && ip link set eth0 up").await?;
//!             router.run("ip address add 192.168.1.2/24 dev eth1 && ip link set eth1 up").await?;
//!             router.run("sysctl -w net.ipv4.ip_forward=1").await?;
//!
//!             let busybox = "quick-start-busybox:1";
//!             bed.engine().import_image(busybox, Tar::file(format!("{images}/busybox.tar")), &["ENV PATH=/bin"]).await?;
//!             let ping = bed.node(0).application("ping", busybox)?.command(["ping", "-c", "3", "192.168.1.1"]);
//!             // A container has no capability that it is not given.
//!             let ping = ping.capability("NET_RAW");
//!             step!("Ping through the router", async { ping.run(bed.engine()).await?.success() }).await?;
//!
//!             let crossed = bed.capture(1).count(|packet| packet.icmp().is_some_and(|icmp| icmp.echo.is_some()))?;
//!             assert_eq!(crossed, 6, "three requests and three replies are on the wire behind the router");
//!             Ok(())
//!         })
//! }
//! ```
//!
//! - [`Testbed`]: start here. A machine or several and their links, made for a test and taken down whatever happens.
//! - [`Dut`]: one of the machines while it runs.
//! - [`Link`]: what a link's node is set to. [`Node`]: the node itself, and the applications in it.
//! - [`DirectLink`]: a cable between two machines.
//! - [`Cable`]: that of a link, to be pulled in the middle of a test.
//! - [`Skeleton`]: all the nodes without a machine, for those who run QEMU in their own way.
//! - [`step!`](crate::step!): a step of a test, in the log and in errors, and its part of the deadline.
//! - [`Failure`]: why a test did not pass. [`Error`]: why a part of a testbed did not work.
//! - [`runs`], [`control`]: what other processes can see of a testbed, and ask of it.
//! - [`evidence`], [`logging`]: what a run leaves, and how the log gets there.
//! - [`report`]: the page that each run leaves, with all that may tell why it failed.
//! - [`SavedStates`]: machines that begin a test booted and logged in. [`after_login`]: where the login of a [`console::Guest`] ends.
//! - [`guide`]: the network design, how nodes are built, how a test ends, questions and answers.
//!
//! The parts, each a crate that is useful alone:
//!
//! - [`qmp`]: the QEMU machine protocol.
//! - [`qemu`]: machines, their command line and process.
//! - [`netns`]: taps and namespaces.
//! - [`docker`]: containers that end with the test.
//! - [`console`]: the serial console and a shell behind it.
//! - [`pcap`]: captures, read and decoded.

pub mod guide;

mod cable;
pub mod control;
mod error;
pub mod evidence;
mod failure;
mod growing;
mod helper;
mod limits;
mod link;
pub mod logging;
mod login;
mod node;
mod panics;
mod processor;
pub mod report;
mod run;
pub mod runs;
mod signals;
mod skeleton;
mod states;
mod step;
mod testbed;

pub use alpy_console as console;
pub use alpy_docker as docker;
pub use alpy_netns as netns;
pub use alpy_pcap as pcap;
pub use alpy_qemu as qemu;
pub use alpy_qmp as qmp;

pub use cable::{Cable, CableEnd};
pub use error::{Error, Overload, Result};
pub use failure::{BoxError, Failure, TestResult};
pub use link::{DirectLink, Link};
pub use login::after_login;
pub use node::Node;
pub use run::LABEL as RUN_LABEL;
pub use skeleton::{NamedTaps, Skeleton, SkeletonBuilder};
pub use states::SavedStates;
pub use step::StepTimeout;
pub use testbed::{Dut, Testbed, TestbedBuilder};

#[doc(hidden)]
pub mod __private {
    pub use crate::step::{run_step, within};
    pub use tracing;
}

/// The README's first test compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
