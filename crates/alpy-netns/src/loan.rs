// SPDX-License-Identifier: GPL-3.0-or-later
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a holder lends of its network namespace, so that a helper elsewhere can work in it: a netlink socket, and a tun device
/// that can become one tap.
///
/// Both belong to the namespace in which they were opened, for as long as they are open; who uses them needs `CAP_NET_ADMIN` over
/// that namespace, and neither `CAP_SYS_ADMIN` nor a path or a process to enter it by. Of a netlink socket that somebody else has
/// opened the kernel asks so where a message says where it goes (`netlink_ns_capable` in net/netlink/af_netlink.c), which
/// all of rtnetlink's do.
///
/// It keeps the namespace alive: drop it, or have [`Session::run_on`](crate::Session::run_on) use it up.
#[derive(Debug)]
pub struct Loan {
    netlink: OwnedFd,
    tun: OwnedFd,
}

impl Loan {
    /// How many descriptors it takes, in the order in which they are passed.
    pub(crate) const DESCRIPTORS: usize = 2;

    /// What came over the socket, if that is a loan.
    pub(crate) fn received(descriptors: Vec<OwnedFd>) -> Result<Self, usize> {
        let [netlink, tun] =
            <[OwnedFd; Self::DESCRIPTORS]>::try_from(descriptors).map_err(|all| all.len())?;
        Ok(Self { netlink, tun })
    }

    #[cfg(feature = "helper")]
    pub(crate) fn into_parts(self) -> (OwnedFd, OwnedFd) {
        (self.netlink, self.tun)
    }

    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; Self::DESCRIPTORS] {
        [self.netlink.as_fd(), self.tun.as_fd()]
    }
}

#[cfg(feature = "helper")]
mod of_this_namespace {
    use std::fs::File;
    use std::io;

    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

    use super::Loan;

    impl Loan {
        pub(crate) const TUN_DEVICE: &str = "/dev/net/tun";

        /// Opens what there is to lend of the calling thread's namespace. That needs no capability.
        pub(crate) fn open() -> io::Result<Self> {
            Ok(Self {
                netlink: socket(
                    AddressFamily::Netlink,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::NetlinkRoute,
                )?,
                tun: open_tun()?.into(),
            })
        }
    }

    /// A tun device of the calling thread's namespace that is no interface yet.
    pub(crate) fn open_tun() -> io::Result<File> {
        let device = File::options().read(true).write(true).open(Loan::TUN_DEVICE);
        device.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", Loan::TUN_DEVICE)))
    }
}

#[cfg(feature = "helper")]
pub(crate) use of_this_namespace::open_tun;
