// SPDX-License-Identifier: GPL-3.0-or-later
//! Packet captures: read, decode, filter, and expect frames while they come.
//!
//! A test of a network appliance ends with a question to the wire: did this frame cross, how often, with what in its headers?
//! This crate answers it from a capture file such as QEMU's `filter-dump` writes one for each link.
//!
//! ```
//! use alpy_pcap::Capture;
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("link0.pcap");
//! # let mut file = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01\0\0\0".to_vec();
//! # file.extend(b"\x01\0\0\0\0\0\0\0\x2a\0\0\0\x2a\0\0\0");
//! # file.extend(b"\x52\x54\0\0\0\x02\x52\x54\0\0\0\x01\x08\0");
//! # file.extend(b"\x45\0\0\x1c\0\0\0\0\x40\x01\0\0\xc0\xa8\0\x01\xc0\xa8\x01\x01\x08\0\0\0\0\x07\0\x01");
//! # std::fs::write(&path, file)?;
//!
//! let capture = Capture::open(&path)?;
//! let request = capture
//!     .find(|packet| packet.icmp().and_then(|icmp| icmp.echo).is_some_and(|echo| echo.request && echo.sequence == 1))?
//!     .expect("the echo request is on the wire");
//! assert_eq!(request.ip().map(|ip| ip.ttl), Some(64));
//! assert_eq!(
//!     request.to_string(),
//!     "00:00:01.000000 IP 192.168.0.1 > 192.168.1.1: ICMP echo request, id 7, seq 1, length 8"
//! );
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`Capture`]: a capture file; start here. Each question ([`count`](Capture::count), [`find`](Capture::find),
//!   [`filter`](Capture::filter), ...) reads the file from its beginning and keeps no more of it in memory than the answer.
//!   [`Capture::mark`] marks its end as it is now, [`Capture::since`] and [`Capture::until`] give the part on one side of a mark, and
//!   what a capture says as a whole are its [`Conversation`]s, and the [`Volume`] of each interval of time.
//! - [`filter`]: well-known questions to a frame, such as [`icmp_echo_to`](filter::icmp_echo_to).
//! - With the feature `live`, which needs tokio: `Capture::expect` and `Capture::expect_none` wait for frames as they are written, and
//!   `Capture::follow` gives each as it comes, and `Capture::stream_to` writes them to a pipe, for Wireshark.
//!   `Timer` is how their limits are measured.
//! - [`Packets`]: what [`Capture::packets`] gives, an iterator over packets that own their bytes.
//! - [`Packet`]: a frame and its decoded layers: [`Ethernet`], [`Vlan`], [`Arp`], [`Ip`] (with [`Fragment`]), [`Icmp`] (with
//!   [`Echo`]), [`Udp`], [`Tcp`] (with [`TcpFlags`]), each a plain struct of fields. Its `Display` is one line in tcpdump's manner.
//! - [`Frame`]: bytes, a timestamp and the original length, not looked into.
//! - [`Reader`]: frames from any [`std::io::Read`], without copying them; for the fast path and for sources that are no files.
//! - [`Merge`]: several captures in one pcapng file, for Wireshark.
//! - [`Writer`]: frames into any [`std::io::Write`], as a classic pcap.
//! - [`MacAddr`]: an Ethernet address.
//! - [`Error`]: what can go wrong, with the file and the byte where it did.
//!
//! The format read is classic pcap, version 2.4, both byte orders, micro- and nanoseconds
//! ([draft-ietf-opsawg-pcap](https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/)), with Ethernet frames in it.
//!
//! A capture that is still being written may end in the middle of a record. That is [`Error::Torn`], which differs from
//! [`Error::Damaged`]: more bytes cure the first, nothing cures the second. [`Capture::ignore_torn_tail`] takes such an end for an
//! end.

mod capture;
mod conversations;
mod decode;
mod display;
mod error;
pub mod filter;
mod format;
mod frame;
mod layers;
#[cfg(feature = "live")]
mod live;
mod merge;
mod packet;
mod rates;
mod reader;
#[cfg(feature = "live")]
mod timer;
mod writer;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use capture::{Capture, Mark, Packets};
pub use conversations::{Conversation, Endpoint, Volume};
pub use error::Error;
pub use frame::Frame;
pub use layers::{Arp, Echo, Ethernet, Fragment, Icmp, Ip, MacAddr, Tcp, TcpFlags, Udp, Vlan};
#[cfg(feature = "live")]
pub use live::Follower;
pub use merge::Merge;
pub use packet::Packet;
pub use reader::Reader;
#[cfg(feature = "live")]
pub use timer::{Running, Timer};
pub use writer::Writer;
