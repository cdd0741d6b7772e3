// SPDX-License-Identifier: GPL-3.0-or-later
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{InterfaceName, IpPrefix};

/// A route in the main table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub(crate) destination: IpPrefix,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) link: Option<InterfaceName>,
}

impl Route {
    /// A route to a network; it needs [`Route::via`], [`Route::link`] or both.
    pub fn to(destination: IpPrefix) -> Self {
        Self {
            destination,
            gateway: None,
            link: None,
        }
    }

    /// The route to everywhere else, through a gateway.
    pub fn default_via(gateway: IpAddr) -> Self {
        let any = match gateway {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self {
            destination: IpPrefix::new(any, 0).expect("0 bits are never too many"),
            gateway: Some(gateway),
            link: None,
        }
    }

    /// Sets the gateway.
    #[must_use]
    pub fn via(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Sets the link that packets leave through; without, the kernel finds it from the gateway.
    #[must_use]
    pub fn link(mut self, link: InterfaceName) -> Self {
        self.link = Some(link);
        self
    }

    pub(crate) fn fault(&self) -> Option<String> {
        let Self {
            destination,
            gateway,
            link,
        } = self;
        if destination.network() != *destination {
            let network = destination.network();
            return Some(format!(
                "{destination} has bits after its prefix; the network is {network}"
            ));
        }
        match gateway {
            Some(gateway) if gateway.is_ipv4() != destination.address().is_ipv4() => {
                Some(format!("{gateway} is of another IP version than {destination}"))
            }
            None if link.is_none() => Some("neither a gateway nor a link is given".to_owned()),
            _ => None,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "add route to {}", self.destination)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(link) = &self.link {
            write!(f, " through {link}")?;
        }
        Ok(())
    }
}
