// SPDX-License-Identifier: GPL-3.0-or-later
//! What a link's kernel says of it, read without a helper.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::{Counters, Error, InterfaceName, Result};

/// A look at the links of a network namespace, for its state and its counters; made by [`Loan::gauge`](crate::Loan::gauge).
///
/// Each look is one question and one answer on a netlink socket of that namespace, some ten microseconds. The kernel answers it to
/// everybody: it needs no privilege, no helper, and no process there.
///
/// It keeps the namespace alive.
#[derive(Debug)]
pub struct Gauge {
    netlink: OwnedFd,
    /// The number of the last question. Held while one waits for its answer.
    number: Mutex<u32>,
}

/// The state of a link at one moment, as a [`Gauge`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkState {
    /// Whether it has been raised (`IFF_UP`).
    pub up: bool,
    /// Whether there is something at the other end (`IFF_LOWER_UP`): for a tap that is up, a process that holds its descriptor and has not
    /// [taken the carrier away](crate::set_carrier).
    pub carrier: bool,
    /// Whether the kernel sends: its operational state is not "down" (RFC 2863). It follows the carrier, up to a second later.
    pub sends: bool,
    /// What passed through it.
    pub counters: Counters,
}

/// `struct nlmsghdr` and `struct ifinfomsg`, see netlink(7) and rtnetlink(7).
const HEADER: usize = 16;
const INFO: usize = 16;

/// Of linux/if.h.
const IF_OPER_DOWN: u8 = 2;

impl Gauge {
    pub(crate) fn new(netlink: OwnedFd) -> Self {
        Self {
            netlink,
            number: Mutex::default(),
        }
    }

    /// Looks at a link.
    ///
    /// # Errors
    /// [`Error::Gauge`]: there is no such link, or the kernel's answer is not understood.
    pub fn read(&self, link: &InterfaceName) -> Result<LinkState> {
        self.ask(link).map_err(|source| Error::Gauge {
            link: link.to_string(),
            source,
        })
    }

    fn ask(&self, link: &InterfaceName) -> io::Result<LinkState> {
        // Whoever the socket was lent to may have left an answer unread: what is asked here has a number that nobody else takes.
        let mut last = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        *last = last.wrapping_add(1);
        let number = *last ^ std::process::id().rotate_left(12);
        let socket = self.netlink.as_raw_fd();
        send(socket, &question(link, number), MsgFlags::empty())?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            // The answer is there when the question has been sent: the kernel gives it in the same call.
            let length = recv(socket, &mut buffer, MsgFlags::MSG_DONTWAIT)?;
            if let Some(state) = answer(&buffer[..length], number)? {
                return Ok(state);
            }
        }
    }
}

/// RTM_GETLINK for the link of a name.
fn question(link: &InterfaceName, number: u32) -> Vec<u8> {
    let name = [link.as_str().as_bytes(), &[0]].concat();
    let attribute = 4 + name.len();
    let length = HEADER + INFO + attribute.next_multiple_of(4);
    let mut bytes = Vec::with_capacity(length);
    bytes.extend((length as u32).to_ne_bytes());
    bytes.extend(libc::RTM_GETLINK.to_ne_bytes());
    bytes.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    // To the kernel; and nothing of `ifinfomsg` but its place, for the name says which link.
    bytes.resize(HEADER + INFO, 0);
    bytes.extend((attribute as u16).to_ne_bytes());
    bytes.extend(libc::IFLA_IFNAME.to_ne_bytes());
    bytes.extend(name);
    bytes.resize(length, 0);
    bytes
}

/// The state in a datagram from the kernel; none if it answers something else.
fn answer(bytes: &[u8], number: u32) -> io::Result<Option<LinkState>> {
    let short = || io::Error::new(ErrorKind::InvalidData, "the kernel's answer ends early");
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = u32_at(rest, 0).ok_or_else(short)? as usize;
        let message = rest.get(..length).filter(|message| message.len() >= HEADER);
        let message = message.ok_or_else(short)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        if u32_at(message, 8) != Some(number) {
            continue;
        }
        let body = &message[HEADER..];
        return match u16_at(message, 4) {
            Some(libc::RTM_NEWLINK) => state(body).map(Some).ok_or_else(short),
            // NLMSG_ERROR: the number of an error, negative.
            Some(2) => {
                let error = i32_at(body, 0).ok_or_else(short)?;
                Err(Errno::from_raw(error.saturating_neg()).into())
            }
            _ => Err(ErrorKind::InvalidData.into()),
        };
    }
    Ok(None)
}

/// What an `ifinfomsg` and its attributes say; none if they end early or have no counters.
fn state(body: &[u8]) -> Option<LinkState> {
    let flags = i32_at(body, 8)?;
    let (mut counters, mut down) = (None, None);
    let mut rest = body.get(INFO..)?;
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        match u16_at(rest, 2)? {
            libc::IFLA_STATS64 => counters = Some(counters_of(value)?),
            libc::IFLA_OPERSTATE => down = Some(*value.first()? == IF_OPER_DOWN),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(LinkState {
        up: flags & libc::IFF_UP != 0,
        carrier: flags & libc::IFF_LOWER_UP != 0,
        sends: !down?,
        counters: counters?,
    })
}

/// `struct rtnl_link_stats64`, see linux/if_link.h.
fn counters_of(value: &[u8]) -> Option<Counters> {
    let field = |index: usize| {
        let field = value.get(8 * index..)?.first_chunk();
        field.copied().map(u64::from_ne_bytes)
    };
    Some(Counters {
        rx_packets: field(0)?,
        tx_packets: field(1)?,
        rx_bytes: field(2)?,
        tx_bytes: field(3)?,
        rx_errors: field(4)?,
        tx_errors: field(5)?,
        rx_dropped: field(6)?,
        tx_dropped: field(7)?,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..)?.first_chunk().copied().map(i32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

    use super::*;

    /// Of this test's own namespace.
    fn gauge() -> Gauge {
        let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
        Gauge::new(socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute).unwrap())
    }

    #[test]
    fn the_loopback_counts_what_is_sent() {
        let gauge = gauge();
        let lo = "lo".parse().unwrap();
        let before = gauge.read(&lo).unwrap();
        assert!(before.up && before.carrier && before.sends);
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(&[0; 100], sender.local_addr().unwrap()).unwrap();
        let after = gauge.read(&lo).unwrap().counters;
        assert!(after.tx_packets > before.counters.tx_packets);
        let bytes = after.rx_bytes - before.counters.rx_bytes;
        assert!(bytes >= 128, "{bytes}");
    }

    #[test]
    fn a_link_that_is_not_there_is_an_error_by_name() {
        let error = gauge().read(&"nowhere0".parse().unwrap()).unwrap_err();
        let Error::Gauge { link, source } = error else {
            panic!("another error: {error}");
        };
        assert_eq!(
            (link.as_str(), source.raw_os_error()),
            ("nowhere0", Some(libc::ENODEV))
        );
    }

    #[test]
    fn an_answer_left_unread_is_not_taken_for_this_ones() {
        let gauge = gauge();
        let lo: InterfaceName = "lo".parse().unwrap();
        send(
            gauge.netlink.as_raw_fd(),
            &question(&"nowhere0".parse().unwrap(), 7),
            MsgFlags::empty(),
        )
        .unwrap();
        assert!(gauge.read(&lo).is_ok());
    }

    #[test]
    fn an_answer_cut_short_anywhere_is_an_error() {
        let (gauge, mut bytes) = (gauge(), vec![0; 64 << 10]);
        send(
            gauge.netlink.as_raw_fd(),
            &question(&"lo".parse().unwrap(), 7),
            MsgFlags::empty(),
        )
        .unwrap();
        let length = recv(gauge.netlink.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).unwrap();
        assert!(answer(&bytes[..length], 7).unwrap().is_some());
        assert!(answer(&bytes[..length], 8).unwrap().is_none());
        for length in 1..length {
            assert!(answer(&bytes[..length], 7).is_err(), "{length}");
        }
    }
}
