// SPDX-License-Identifier: GPL-3.0-or-later
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::Gauge;

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

    #[cfg(feature = "helper")]
    pub(crate) fn new(netlink: OwnedFd, tun: OwnedFd) -> Self {
        Self { netlink, tun }
    }

    /// What came over the socket, if that is a loan; else how many descriptors came.
    pub(crate) fn received(descriptors: Vec<OwnedFd>) -> Result<Self, usize> {
        let [netlink, tun] =
            <[OwnedFd; Self::DESCRIPTORS]>::try_from(descriptors).map_err(|all| all.len())?;
        Ok(Self { netlink, tun })
    }

    #[cfg(feature = "helper")]
    pub(crate) fn into_parts(self) -> (OwnedFd, OwnedFd) {
        (self.netlink, self.tun)
    }

    /// A look at the links of the namespace, which stays when the loan is used up.
    ///
    /// # Errors
    /// This process has no descriptor left.
    pub fn gauge(&self) -> io::Result<Gauge> {
        Ok(Gauge::new(self.netlink.try_clone()?))
    }

    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; Self::DESCRIPTORS] {
        [self.netlink.as_fd(), self.tun.as_fd()]
    }
}
