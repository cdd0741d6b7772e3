// SPDX-License-Identifier: GPL-3.0-or-later
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{InterfaceName, MacAddr, Namespace};

/// New settings of a link, all in one message to the kernel; what is not named stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkChange {
    pub(crate) link: InterfaceName,
    pub(crate) name: Option<InterfaceName>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) mtu_bytes: Option<u32>,
    pub(crate) up: Option<bool>,
    pub(crate) without_ipv6_link_local: bool,
}

impl LinkChange {
    /// The least MTU in bytes that IPv4 works with (RFC 791).
    pub const MIN_MTU_BYTES: u32 = 68;
    /// The greatest MTU in bytes of a tap: `ETH_MAX_MTU` less the Ethernet header.
    pub const MAX_MTU_BYTES: u32 = 65535 - 14;

    /// A change of the link that now has this name.
    pub fn of(link: InterfaceName) -> Self {
        Self {
            link,
            name: None,
            namespace: None,
            mac: None,
            mtu_bytes: None,
            up: None,
            without_ipv6_link_local: false,
        }
    }

    /// Gives it a new name.
    #[must_use]
    pub fn name(mut self, name: InterfaceName) -> Self {
        self.name = Some(name);
        self
    }

    /// Moves it to another namespace. What else the change asks for holds there, but later steps do not see the link any more.
    ///
    /// Whether its name is free there is looked at before, if the helper may enter that namespace (`CAP_SYS_ADMIN`). A helper
    /// that may not, in a container with `CAP_NET_ADMIN` alone, hears it from the kernel after the move, and cannot fetch the
    /// link back: [`Failure::left`](crate::Failure::left) then says so. A tap of the same request is undone in any case.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Sets the hardware address.
    #[must_use]
    pub fn mac(mut self, mac: MacAddr) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Sets the greatest payload of a frame in bytes.
    #[must_use]
    pub fn mtu_bytes(mut self, mtu_bytes: u32) -> Self {
        self.mtu_bytes = Some(mtu_bytes);
        self
    }

    /// Raises it.
    #[must_use]
    pub fn up(mut self) -> Self {
        self.up = Some(true);
        self
    }

    /// Lowers it.
    #[must_use]
    pub fn down(mut self) -> Self {
        self.up = Some(false);
        self
    }

    /// Has the kernel give the link no IPv6 address by itself when it is raised, so that nothing but what the test sends is on
    /// the wire: no duplicate address detection, no router solicitation (`addrgenmode none` of ip-link(8)).
    #[must_use]
    pub fn without_ipv6_link_local(mut self) -> Self {
        self.without_ipv6_link_local = true;
        self
    }

    pub(crate) fn fault(&self) -> Option<String> {
        let (least, most) = (Self::MIN_MTU_BYTES, Self::MAX_MTU_BYTES);
        if let Some(mtu) = self.mtu_bytes.filter(|mtu| !(least..=most).contains(mtu)) {
            return Some(format!("an MTU of {mtu} bytes is not between {least} and {most}"));
        }
        if self.namespace.is_some() && self.without_ipv6_link_local {
            return Some(
                "a link that moves forgets that it is without IPv6 link-local; ask for it there".to_owned(),
            );
        }
        self.namespace.as_ref().and_then(Namespace::fault)
    }
}

impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "change {}", self.link)?;
        if let Some(name) = &self.name {
            write!(f, ", name {name}")?;
        }
        if let Some(namespace) = &self.namespace {
            write!(f, ", namespace {namespace}")?;
        }
        if let Some(mac) = self.mac {
            write!(f, ", mac {mac}")?;
        }
        if let Some(mtu) = self.mtu_bytes {
            write!(f, ", mtu {mtu}")?;
        }
        if self.without_ipv6_link_local {
            write!(f, ", without ipv6 link-local")?;
        }
        match self.up {
            Some(true) => write!(f, ", up"),
            Some(false) => write!(f, ", down"),
            None => Ok(()),
        }
    }
}
