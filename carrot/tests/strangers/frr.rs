// SPDX-License-Identifier: GPL-3.0-or-later
//! FRR is the router, BIRD its peer: two implementations of the protocols, and neither is ours. FRR's own command line is all that the
//! router's console has.

use std::time::Duration;

use alpy::console::{Cli, CliSession};
use alpy::docker::Running;
use alpy::pcap::{Packet, filter};
use alpy::qemu::Machine;
use alpy::{Link, Node, Testbed, step};
use alpy_need::need;
use anyhow::{Result, bail};
use carrot::ping;

use crate::SOON;

/// How long the peers may take until they agree, and how long until one has noticed that the other is gone.
const CONVERGENCE: Duration = Duration::from_secs(30);

/// The network that the peer announces, and an address of the peer's in it.
const NETWORK: &str = "203.0.113.0/24";
const BEHIND: [u8; 4] = [203, 0, 113, 1];

const PEER: [u8; 4] = [192, 168, 1, 1];

/// A protocol of routers: what both are told, and how it is known on the wire.
struct Protocol {
    test: &'static str,
    frr: &'static [&'static str],
    bird: &'static str,
    announces: fn(&Packet<'_>) -> bool,
    /// What the peer says last.
    leaves: fn(&Packet<'_>) -> bool,
}

#[tokio::test]
async fn frr_forwards_by_what_a_peer_announces_by_bgp_until_the_peer_ends() -> Result<()> {
    follows_its_peer(Protocol {
        test: "frr-bgp",
        frr: &[
            "router bgp 65000",
            "no bgp ebgp-requires-policy",
            "neighbor 192.168.1.1 remote-as 65001",
            "neighbor 192.168.1.1 timers connect 1",
        ],
        bird: "protocol bgp {
            local 192.168.1.1 as 65001;
            neighbor 192.168.1.2 as 65000;
            connect delay time 1;
            ipv4 { import none; export all; next hop self; };
        }",
        announces: |packet| bgp(packet, 2).is_some_and(has_network),
        leaves: |packet| bgp(packet, 3).is_some(),
    })
    .await
}

#[tokio::test]
async fn frr_forwards_by_what_a_peer_announces_by_ospf_until_the_peer_ends() -> Result<()> {
    follows_its_peer(Protocol {
        test: "frr-ospf",
        frr: &[
            "router ospf",
            "exit",
            "interface eth1",
            "ip ospf area 0",
            "ip ospf network point-to-point",
            "ip ospf hello-interval 1",
            "ip ospf dead-interval 4",
        ],
        bird: "protocol ospf v2 {
            ipv4 { import none; export all; };
            area 0 { interface 192.168.1.0/24 { type pointopoint; hello 1; dead 4; }; };
        }",
        announces: |packet| ospf(packet, 4).is_some_and(has_network),
        // A greeting that names no neighbour any more: 44 bytes long.
        leaves: |packet| ospf(packet, 1).is_some_and(|hello| hello.get(2..4) == Some(&[0, 44])),
    })
    .await
}

/// node 0 - FRR - node 1, in which the peer lives.
async fn follows_its_peer(protocol: Protocol) -> Result<()> {
    need!(docker, qemu => Ok(()));
    let Some(image) = crate::machine("frr")? else {
        return Ok(());
    };
    let router = Machine::new()
        .kernel(image.kernel)
        .initrd(image.initrd)
        .append(image.cmdline);
    Testbed::builder(protocol.test)
        .machine(router.memory_mib(256))
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(
            Link::new()
                .address("192.168.1.1/24")
                .address("203.0.113.1/24")
                .gateway("192.168.1.2"),
        )
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut frr = step!("Wait for FRR's command line", vtysh().open(bed.console())).await?;
            configure(&mut frr, protocol.frr).await?;
            let behind = BEHIND.map(|byte| byte.to_string()).join(".");
            let wan = bed.capture(1);
            // The wire works, and nobody has said what is behind it.
            ping::answers(bed.node(0), "192.168.1.1").await?;
            ping::is_lost(bed.node(0), &behind).await?;

            let bird = start_peer(bed.node(1), protocol.bird).await?;
            route(bed, &mut frr, "192.168.1.1, via eth1").await?;
            wan.expect(protocol.announces, SOON).await?;
            wan.expect_none(filter::icmp_echo_to(BEHIND), Duration::ZERO)
                .await?;
            ping::answers(bed.node(0), &behind).await?;
            wan.expect(filter::icmp_echo_to(BEHIND), SOON).await?;

            let end = wan.mark("the peer ends")?;
            let ended = step!("End the peer", bird.stop("SIGTERM", SOON)).await?;
            tracing::debug!("{}{}", ended.stdout_text(), ended.stderr_text());
            route(bed, &mut frr, "Network not in table").await?;
            let after = wan.since(&end)?;
            after.expect(protocol.leaves, SOON).await?;
            ping::is_lost(bed.node(0), &behind).await?;
            after
                .expect_none(filter::icmp_echo_to(BEHIND), Duration::ZERO)
                .await?;
            ping::answers(bed.node(0), "192.168.1.1").await
        })
        .await?;
    Ok(())
}

/// FRR's command line, in whatever mode it is.
fn vtysh() -> Cli {
    Cli::new("# ").complains_with("% ")
}

async fn configure(frr: &mut CliSession, protocol: &[&str]) -> Result<()> {
    let ports = [
        "configure terminal",
        "ip forwarding",
        "interface eth0",
        "ip address 192.168.0.2/24",
        "no shutdown",
        "exit",
        "interface eth1",
        "ip address 192.168.1.2/24",
        "no shutdown",
        "exit",
    ];
    let typed = async {
        for command in ports.iter().chain(protocol).chain(&["end"]) {
            frr.run(command).await?;
        }
        anyhow::Ok(())
    };
    step!("Configure FRR", typed).await
}

/// Starts BIRD, which announces the network.
async fn start_peer(node: &Node, protocol: &str) -> Result<Running> {
    let configuration = format!(
        "log stderr all;\nrouter id 192.168.1.1;\nprotocol device {{}}\n\
         protocol static {{ ipv4; route {NETWORK} unreachable; }}\n{protocol}\n"
    );
    let image = rabbit::image(node.engine(), "bird").await?;
    let bird = node
        .application("bird", &image)?
        .file("/etc/bird.conf", configuration, 0o644)
        .command(["bird", "-f", "-c", "/etc/bird.conf", "-s", "/bird.ctl"])
        // A port below 1024, the protocol's own sockets, and their priority.
        .capability("NET_BIND_SERVICE")
        .capability("NET_RAW")
        .capability("NET_ADMIN");
    let started = async {
        let bird = bird.start(node.engine()).await?;
        bird.wait_output("Started", SOON).await?;
        anyhow::Ok(bird)
    };
    step!("Start the peer", started).await
}

/// Waits until FRR prints this about the network. The time in which the host starves the guest does not count.
async fn route(bed: &Testbed, frr: &mut CliSession, wanted: &str) -> Result<()> {
    let command = format!("show ip route {NETWORK}");
    let mut looks = tokio::time::interval(Duration::from_millis(100));
    let mut limit = bed.qemu().timer()(CONVERGENCE);
    let mut seen = String::new();
    let wait = async {
        while !seen.contains(wanted) {
            tokio::select! {
                _ = looks.tick() => {}
                () = &mut limit => {
                    bail!("expected {wanted:?} of `{command}` within {CONVERGENCE:?}, saw {seen:?}")
                }
            }
            seen = frr.run_ignoring_status(&command).await?.text().into_owned();
        }
        Ok(())
    };
    step!(format!("Wait until FRR says {wanted:?} of {NETWORK}"), wait).await
}

/// The peer's BGP messages from the first of this type on, if there is one: RFC 4271, section 4.1.
fn bgp<'a>(packet: &'a Packet<'_>, message: u8) -> Option<&'a [u8]> {
    let from_peer = filter::ip_from(PEER)(packet);
    let tcp = packet
        .tcp()
        .filter(|tcp| from_peer && [tcp.source_port, tcp.destination_port].contains(&179))?;
    let header = |bytes: &[u8]| bytes.len() > 18 && bytes[..16] == [0xff; 16] && bytes[18] == message;
    let at = (0..tcp.payload.len()).find(|at| header(&tcp.payload[*at..]))?;
    Some(&tcp.payload[at..])
}

/// The peer's OSPF packet of this type: RFC 2328, section A.3.1.
fn ospf<'a>(packet: &'a Packet<'_>, kind: u8) -> Option<&'a [u8]> {
    let ip = packet.ip()?;
    let is_ospf = ip.protocol == 89 && filter::ip_from(PEER)(packet);
    Some(packet.payload()).filter(|bytes| is_ospf && bytes.get(1) == Some(&kind))
}

/// Whether the network is in a message.
fn has_network(message: &[u8]) -> bool {
    message.windows(3).any(|bytes| bytes == &BEHIND[..3])
}
