// SPDX-License-Identifier: GPL-3.0-or-later
//! The kernel parameters of a node's network namespace.

use std::path::Path;

/// The parameters of an interface that decide which frames a node sends, answers, forwards or accepts, with the kernel's own
/// defaults (`ipv4_devconf` in net/ipv4/devinet.c).
///
/// A new network namespace begins with those of the host's (Documentation/admin-guide/sysctl/net.rst, `devconf_inherit_init_net`), and
/// distributions and administrators change them: a node would route, or drop frames that come another way than its answers go, depending on the machine
/// that the test runs on.
const IPV4: [(&str, &str); 20] = [
    ("accept_local", "0"),
    ("accept_redirects", "1"),
    ("accept_source_route", "0"),
    ("arp_accept", "0"),
    ("arp_announce", "0"),
    ("arp_filter", "0"),
    ("arp_ignore", "0"),
    ("arp_notify", "0"),
    ("drop_gratuitous_arp", "0"),
    ("drop_unicast_in_l2_multicast", "0"),
    ("force_igmp_version", "0"),
    // Of `all`, it is what `net.ipv4.ip_forward` is too.
    ("forwarding", "0"),
    ("proxy_arp", "0"),
    ("proxy_arp_pvlan", "0"),
    ("route_localnet", "0"),
    ("rp_filter", "0"),
    ("secure_redirects", "1"),
    ("send_redirects", "1"),
    ("shared_media", "1"),
    ("src_valid_mark", "0"),
];

/// The same for IPv6 (`ipv6_devconf` in net/ipv6/addrconf.c). By default a new namespace does not begin with the host's, but it may.
const IPV6: [(&str, &str); 16] = [
    ("accept_ra", "1"),
    ("accept_ra_defrtr", "1"),
    ("accept_ra_pinfo", "1"),
    ("accept_redirects", "1"),
    ("accept_source_route", "0"),
    ("autoconf", "1"),
    ("dad_transmits", "1"),
    ("drop_unicast_in_l2_multicast", "0"),
    ("drop_unsolicited_na", "0"),
    ("force_mld_version", "0"),
    ("forwarding", "0"),
    ("ndisc_notify", "0"),
    ("optimistic_dad", "0"),
    ("proxy_ndp", "0"),
    ("router_solicitations", "-1"),
    ("use_tempaddr", "0"),
];

/// Parameters of the whole namespace. A server on a port below 1024 needs no capability: Docker sets this by itself, Podman does not.
const NAMESPACE: [(&str, &str); 1] = [("net.ipv4.ip_unprivileged_port_start", "0")];

/// For a rootless engine: ICMP echo sockets for the applications' default group. Other groups need not have a number in the engine's user
/// namespace, and the kernel refuses those. With root, Docker and Podman set what they allow by themselves.
const ROOTLESS: (&str, &str) = ("net.ipv4.ping_group_range", "0 0");

/// The parameters for a node, with or without IPv6. Those that the running kernel does not have are left out: the engine's host is
/// this one.
pub(super) fn sysctls(has_ipv6: bool, rootless: bool) -> Vec<(String, &'static str)> {
    let of_namespace = NAMESPACE.into_iter().chain(rootless.then_some(ROOTLESS));
    let mut all: Vec<_> = of_namespace
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    // An interface that is made later begins with `default`.
    for which in ["all", "default"] {
        all.extend(IPV4.map(|(name, value)| (format!("net.ipv4.conf.{which}.{name}"), value)));
        all.extend(IPV6.map(|(name, value)| (format!("net.ipv6.conf.{which}.{name}"), value)));
        let disable = if has_ipv6 { "0" } else { "1" };
        all.push((format!("net.ipv6.conf.{which}.disable_ipv6"), disable));
    }
    all.retain(|(name, _)| Path::new("/proc/sys").join(name.replace('.', "/")).exists());
    all
}
