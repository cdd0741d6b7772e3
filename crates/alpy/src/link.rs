// SPDX-License-Identifier: GPL-3.0-or-later
//! A link as a test asks for it.

use std::fmt::Display;
use std::net::IpAddr;

use alpy_netns::{InterfaceName, IpPrefix, LinkChange, MacAddr, Request, Route};

use crate::error::{Error, Result};

/// The interface of a link in its node.
pub(crate) const INTERFACE: &str = "eth0";

/// A link: a NIC of the machine, and the tap in its node, with the settings of the node's end.
///
/// Values are given as text and looked at when the test starts, before anything is touched.
///
/// ```
/// use alpy::Link;
///
/// let lan = Link::new().address("192.168.0.1/24").gateway("192.168.0.2");
/// let dual_stack = Link::new().address("192.0.2.1/24").address("2001:db8::1/64").route("2001:db8:1::/48", "2001:db8::2");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Link {
    addresses: Vec<String>,
    gateways: Vec<String>,
    routes: Vec<(String, String)>,
    mtu_bytes: Option<u32>,
    node_mac: Option<String>,
    machine: usize,
    machine_mac: Option<String>,
    ipv6_link_local: bool,
    unplugged: bool,
    uncaptured: bool,
}

/// A direct link: a cable between the NICs of two machines, without a node.
///
/// It has a number among the links, a capture, which is at the first machine's end, and a [`Cable`](crate::Cable), as any other. Nothing is
/// between the two machines but a pair of sockets: a frame that one of them sends is one that the other one receives. While a machine does
/// not take frames, as one that is stopped, they wait, and then the other machine waits with what it sends; see
/// [the guide](crate::guide::several_machines).
///
/// ```
/// use alpy::DirectLink;
///
/// let heartbeat = DirectLink::between(0, 1);
/// ```
#[derive(Debug, Clone)]
pub struct DirectLink {
    machines: [usize; 2],
    macs: [Option<String>; 2],
    unplugged: bool,
}

/// One link of a testbed to be.
#[derive(Debug, Clone)]
pub(crate) enum AnyLink {
    ToNode(Link),
    Direct(DirectLink),
}

impl Link {
    /// A link whose node has no address.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more address of the node, IPv4 or IPv6, with its prefix length: `192.168.0.1/24`.
    pub fn address(mut self, address: impl Display) -> Self {
        self.addresses.push(address.to_string());
        self
    }

    /// The node's default gateway; one for each IP version.
    pub fn gateway(mut self, address: impl Display) -> Self {
        self.gateways.push(address.to_string());
        self
    }

    /// One more route of the node, to a network such as `10.0.0.0/8`.
    pub fn route(mut self, destination: impl Display, gateway: impl Display) -> Self {
        self.routes.push((destination.to_string(), gateway.to_string()));
        self
    }

    /// The greatest payload of a frame in bytes at the node's end: 1500 if not set.
    pub fn mtu_bytes(mut self, mtu: u32) -> Self {
        self.mtu_bytes = Some(mtu);
        self
    }

    /// The hardware address of the node's end, such as `02:00:00:00:00:01`; the kernel chooses one if not set.
    pub fn node_mac(mut self, mac: impl Display) -> Self {
        self.node_mac = Some(mac.to_string());
        self
    }

    /// Which of the testbed's [machines](crate::TestbedBuilder::machine) has the NIC, counted from 0: the first one if not set. A machine's NICs
    /// are in the order of its links.
    pub fn machine(mut self, index: usize) -> Self {
        self.machine = index;
        self
    }

    /// The hardware address of the machine's NIC: `52:54:00:12:34:56` for link 0, one more for each further link, if not set.
    pub fn machine_mac(mut self, mac: impl Display) -> Self {
        self.machine_mac = Some(mac.to_string());
        self
    }

    /// Lets the node's kernel give the interface an IPv6 link-local address. It then sends router solicitations and multicast
    /// reports that no application asked for. Without this, and without an IPv6 address, the wire is quiet; a node with an IPv6
    /// address tells of the multicast groups that the address makes it join (MLD, RFC 3810).
    pub fn ipv6_link_local(mut self) -> Self {
        self.ipv6_link_local = true;
        self
    }

    /// The machine starts with the cable of this link pulled out at both ends; [`Cable::plug`](crate::Cable::plug) plugs it in.
    ///
    /// What the guest does while it boots may depend on this, so the machine boots, and no saved state is used.
    pub fn boot_unplugged(mut self) -> Self {
        self.unplugged = true;
        self
    }

    /// Captures nothing of this link: for throughput, as QEMU then writes no frame to a file. Such a link has no file in the evidence, no
    /// part in `links.pcapng`, no [`Testbed::capture`](crate::Testbed::capture), and nothing is said of frames that are missing.
    pub fn without_capture(mut self) -> Self {
        self.uncaptured = true;
        self
    }

    /// Whether its frames are captured.
    pub(crate) fn is_captured(&self) -> bool {
        !self.uncaptured
    }

    /// Whether the node's end has anything of IPv6.
    pub(crate) fn has_ipv6(&self) -> bool {
        let gateways = self
            .routes
            .iter()
            .map(|(_, gateway)| gateway)
            .chain(&self.gateways);
        self.ipv6_link_local
            || self
                .addresses
                .iter()
                .chain(gateways)
                .any(|address| address.contains(':'))
    }

    /// Looks at every value.
    pub(crate) fn check(&self, index: usize) -> Result<()> {
        self.settings(index, Request::new().lasting_tap(interface()))?;
        self.nic_mac(index).map(drop)
    }

    /// The settings of the interface once it is in its node.
    pub(crate) fn settings(&self, index: usize, request: Request) -> Result<Request> {
        let bad = |source| Error::Link { index, source };
        let interface = interface();
        let mut change = LinkChange::of(interface.clone()).up();
        if let Some(mtu) = self.mtu_bytes {
            change = change.mtu_bytes(mtu);
        }
        if let Some(mac) = &self.node_mac {
            change = change.mac(mac.parse().map_err(bad)?);
        }
        if !self.ipv6_link_local {
            change = change.without_ipv6_link_local();
        }
        let mut request = request.link(change);
        for address in &self.addresses {
            request = request.address(interface.clone(), address.parse().map_err(bad)?);
        }
        for gateway in &self.gateways {
            request = request.default_route(self.reachable(index, gateway)?);
        }
        for (destination, gateway) in &self.routes {
            let destination: IpPrefix = destination.parse().map_err(bad)?;
            request = request.route(Route::to(destination).via(self.reachable(index, gateway)?));
        }
        request.check().map_err(bad)?;
        for of in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            let mut gateways = self
                .gateways
                .iter()
                .filter(|gateway| gateway.parse().is_ok_and(|gateway| of(&gateway)));
            if let Some(gateway) = gateways.nth(1) {
                let reason = "it is a second default gateway of its IP version";
                return Err(Error::Gateway {
                    index,
                    gateway: gateway.clone(),
                    reason,
                });
            }
        }
        Ok(request)
    }

    /// A gateway in one of the networks that the node has an address in: the kernel takes no other.
    fn reachable(&self, index: usize, gateway: &str) -> Result<IpAddr> {
        let fault = |reason| Error::Gateway {
            index,
            gateway: gateway.to_owned(),
            reason,
        };
        let address: IpAddr = gateway
            .parse()
            .map_err(|_| fault("it is not an IP address, such as 192.168.0.2"))?;
        let beside = |own: &String| {
            own.parse().is_ok_and(|own: IpPrefix| {
                IpPrefix::new(address, own.length()).is_ok_and(|prefix| prefix.network() == own.network())
            })
        };
        // A router's link-local address is on every link.
        let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        if link_local || self.addresses.iter().any(beside) {
            Ok(address)
        } else {
            Err(fault("it is in none of the networks of the link's addresses"))
        }
    }

    /// The hardware address of the machine's NIC.
    pub(crate) fn nic_mac(&self, index: usize) -> Result<[u8; 6]> {
        mac(index, 0, self.machine_mac.as_deref())
    }

    /// The addresses of the node's end, as they were given.
    pub(crate) fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Its default gateways, as they were given.
    pub(crate) fn gateways(&self) -> &[String] {
        &self.gateways
    }

    /// The hardware address that the node's end was given, if it was.
    pub(crate) fn wanted_node_mac(&self) -> Option<&str> {
        self.node_mac.as_deref()
    }

    pub(crate) fn of_machine(&self) -> usize {
        self.machine
    }

    pub(crate) fn is_unplugged(&self) -> bool {
        self.unplugged
    }
}

impl DirectLink {
    /// A cable between two machines by their numbers. It may be the same one, with two of its NICs.
    pub fn between(first: usize, second: usize) -> Self {
        Self {
            machines: [first, second],
            macs: [None, None],
            unplugged: false,
        }
    }

    /// The hardware addresses of the two NICs: as [`Link::machine_mac`] says for the first, and the same with `52:54:01` at its beginning
    /// for the second, if not set.
    pub fn macs(mut self, first: impl Display, second: impl Display) -> Self {
        self.macs = [Some(first.to_string()), Some(second.to_string())];
        self
    }

    /// The machines start with the cable pulled out at both ends; [`Cable::plug`](crate::Cable::plug) plugs it in. They boot, and no saved
    /// state is used.
    pub fn boot_unplugged(mut self) -> Self {
        self.unplugged = true;
        self
    }
}

impl AnyLink {
    /// Whether its frames are captured.
    pub(crate) fn is_captured(&self) -> bool {
        match self {
            Self::ToNode(link) => link.is_captured(),
            Self::Direct(_) => true,
        }
    }

    /// The machine of each NIC that it has.
    pub(crate) fn machines(&self) -> Vec<usize> {
        match self {
            Self::ToNode(link) => vec![link.machine],
            Self::Direct(link) => link.machines.to_vec(),
        }
    }

    /// The hardware address of each NIC that it has.
    pub(crate) fn macs(&self, index: usize) -> Result<Vec<[u8; 6]>> {
        match self {
            Self::ToNode(link) => Ok(vec![link.nic_mac(index)?]),
            Self::Direct(link) => {
                let macs = link.macs.iter().enumerate();
                macs.map(|(end, text)| mac(index, end, text.as_deref())).collect()
            }
        }
    }

    pub(crate) fn is_unplugged(&self) -> bool {
        match self {
            Self::ToNode(link) => link.is_unplugged(),
            Self::Direct(link) => link.unplugged,
        }
    }
}

/// A hardware address that was asked for, or that of a link's first or second NIC.
fn mac(index: usize, end: usize, text: Option<&str>) -> Result<[u8; 6]> {
    match text {
        Some(text) => {
            let mac: MacAddr = text.parse().map_err(|source| Error::Link { index, source })?;
            Ok(mac.octets())
        }
        // QEMU's own numbering, written out so that it does not depend on the order of devices.
        None => {
            let [.., a, b, c] = (0x12_3456 + index).to_be_bytes();
            Ok([0x52, 0x54, if end == 0 { 0 } else { 1 }, a, b, c])
        }
    }
}

/// The interface of a link in its node, as a name.
pub(crate) fn interface() -> InterfaceName {
    INTERFACE.parse().expect("it is short and plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(link: &Link) -> String {
        let error = link.settings(3, Request::new()).unwrap_err();
        let source = std::error::Error::source(&error)
            .map(ToString::to_string)
            .unwrap_or_default();
        format!("{error}: {source}")
    }

    #[test]
    fn a_bad_value_is_refused_by_link_and_value() {
        for (link, value) in [
            (Link::new().address("192.168.0.1"), "192.168.0.1"),
            (Link::new().address("192.168.0.1/33"), "192.168.0.1/33"),
            (Link::new().gateway("192.168.0.1/24"), "192.168.0.1/24"),
            (
                Link::new().address("10.0.0.2/8").route("10.0.0.1/8", "10.0.0.1"),
                "10.0.0.1/8",
            ),
            (
                Link::new().address("192.168.0.1/24").gateway("10.0.0.1"),
                "10.0.0.1",
            ),
            (
                Link::new()
                    .address("192.168.0.1/24")
                    .gateway("192.168.0.2")
                    .gateway("192.168.0.3"),
                "192.168.0.3",
            ),
            (Link::new().node_mac("02:00"), "02:00"),
            (Link::new().mtu_bytes(1), "1 "),
        ] {
            let refusal = refusal(&link);
            assert!(
                refusal.starts_with("link 3") && refusal.contains(value),
                "{refusal}"
            );
        }
    }

    #[test]
    fn each_nic_has_a_hardware_address_of_its_own() {
        let last = |index| Link::new().nic_mac(index).unwrap()[3..].to_vec();
        assert_eq!(
            [last(0), last(1), last(255)],
            [[0x12, 0x34, 0x56], [0x12, 0x34, 0x57], [0x12, 0x35, 0x55]]
        );
        let error = Link::new().machine_mac("52:54").nic_mac(0).unwrap_err();
        let text = crate::failure::chain(&error);
        assert!(text.starts_with("link 0: ") && text.contains("52:54"), "{text}");
    }
}
