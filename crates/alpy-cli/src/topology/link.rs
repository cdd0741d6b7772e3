// SPDX-License-Identifier: GPL-3.0-or-later
//! A link of a topology file.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::Range;
use std::str::FromStr;

use alpy::netns::{IpPrefix, MacAddr};
use alpy::{DirectLink, Link, TestbedBuilder};
use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use super::place::Source;

/// A link: from a machine to a node, or, with `between`, from a machine to another one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkTable {
    /// Which machine has the NIC, from 0: the first one if not set.
    machine: Option<usize>,
    /// The two machines of a direct link. It has no node, and so nothing of what is below but `unplugged`.
    pub between: Option<[usize; 2]>,
    /// The addresses of the node, such as `192.168.0.1/24`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    addresses: Vec<Spanned<String>>,
    /// Its default gateways, one for each IP version.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    gateways: Vec<Spanned<String>>,
    /// Its further routes.
    #[serde(default)]
    route: Vec<RouteTable>,
    /// The greatest payload of a frame at the node's end, in bytes: 1500 if not set.
    mtu_bytes: Option<u32>,
    /// The hardware address of the node's end.
    #[schemars(with = "Option<String>")]
    node_mac: Option<Spanned<String>>,
    /// The hardware address of the machine's NIC.
    #[schemars(with = "Option<String>")]
    machine_mac: Option<Spanned<String>>,
    /// Whether the node's kernel gives itself an IPv6 link-local address.
    #[serde(default)]
    ipv6_link_local: bool,
    /// Whether the cable is pulled out when the machine starts.
    #[serde(default)]
    unplugged: bool,
    /// Whether nothing is captured.
    #[serde(default)]
    without_capture: bool,
}

/// A route of a node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RouteTable {
    /// The network, such as `10.0.0.0/8`.
    #[schemars(with = "String")]
    to: Spanned<String>,
    /// The gateway.
    via: String,
}

impl LinkTable {
    /// One more link of the testbed. `span` is where the table is.
    pub fn add_to(&self, builder: TestbedBuilder, source: &Source<'_>, span: Range<usize>) -> TestbedBuilder {
        if let Some([first, second]) = self.between {
            if let Some(word) = self.word_of_a_node() {
                let text = format!("a link with `between` has no node, and so no `{word}`");
                source.mistake(span, &text);
            }
            let link = DirectLink::between(first, second);
            return builder.direct_link(if self.unplugged {
                link.boot_unplugged()
            } else {
                link
            });
        }
        let mut link = Link::new().machine(self.machine.unwrap_or(0));
        for (index, address) in self.addresses.iter().enumerate() {
            if self.addresses[..index]
                .iter()
                .any(|other| other.as_ref() == address.as_ref())
            {
                source.mistake(
                    address.span(),
                    &format!("the address {} is there twice", address.as_ref()),
                );
            }
        }
        if let (Some(node), Some(machine)) = (&self.node_mac, &self.machine_mac) {
            if node.as_ref().eq_ignore_ascii_case(machine.as_ref()) {
                source.mistake(
                    machine.span(),
                    "both ends of the link have the same hardware address",
                );
            }
        }
        for address in self
            .addresses
            .iter()
            .filter_map(|address| checked::<IpPrefix>(source, address))
        {
            link = link.address(address);
        }
        for gateway in self
            .gateways
            .iter()
            .filter_map(|gateway| checked::<IpAddr>(source, gateway))
        {
            link = link.gateway(gateway);
        }
        for route in &self.route {
            if let Some(to) = checked::<IpPrefix>(source, &route.to) {
                link = link.route(to, &route.via);
            }
        }
        if let Some(mtu) = self.mtu_bytes {
            link = link.mtu_bytes(mtu);
        }
        if let Some(mac) = self
            .node_mac
            .as_ref()
            .and_then(|mac| checked::<MacAddr>(source, mac))
        {
            link = link.node_mac(mac);
        }
        if let Some(mac) = self
            .machine_mac
            .as_ref()
            .and_then(|mac| checked::<MacAddr>(source, mac))
        {
            link = link.machine_mac(mac);
        }
        if self.ipv6_link_local {
            link = link.ipv6_link_local();
        }
        if self.unplugged {
            link = link.boot_unplugged();
        }
        if self.without_capture {
            link = link.without_capture();
        }
        builder.link(link)
    }

    /// A word that is there and means nothing for a direct link.
    fn word_of_a_node(&self) -> Option<&'static str> {
        let words = [
            ("machine", self.machine.is_some()),
            ("addresses", !self.addresses.is_empty()),
            ("gateways", !self.gateways.is_empty()),
            ("route", !self.route.is_empty()),
            ("mtu_bytes", self.mtu_bytes.is_some()),
            ("node_mac", self.node_mac.is_some()),
            ("machine_mac", self.machine_mac.is_some()),
            ("ipv6_link_local", self.ipv6_link_local),
            ("without_capture", self.without_capture),
        ];
        words.into_iter().find(|(_, there)| *there).map(|(word, _)| word)
    }
}

/// The text of a value, if it can be read as what it is.
fn checked<'a, T: FromStr<Err: Display>>(source: &Source<'_>, value: &'a Spanned<String>) -> Option<&'a str> {
    let text = value.as_ref();
    match text.parse::<T>() {
        Ok(_) => Some(text),
        Err(error) => {
            let mut reason = error.to_string();
            if !reason.contains(text) {
                reason = format!("{text:?}: {reason}");
            }
            source.mistake(value.span(), &reason);
            None
        }
    }
}
