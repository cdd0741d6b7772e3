// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit routes IPv4 packets between two networks, once it is told to, and not before.

use std::net::IpAddr;

use alpy::pcap::{Capture, Packet};
use alpy::{Link, Testbed};
use anyhow::{Result, ensure};
use carrot::{iperf3, ping, wire};

#[tokio::test]
async fn forward_ipv4() -> Result<()> {
    Testbed::builder("forward-ipv4")
        .description("Check that rabbit forwards IPv4 packets.")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(
                &mut shell,
                "configure-addresses",
                include_str!("configure-addresses"),
            )
            .await?;

            // The rabbit is there, and what should cross it does not: it is the forwarding that is missing, not the way to it.
            ping::answers(bed.node(0), "192.168.0.2").await?;
            ping::is_lost(bed.node(0), "192.168.1.1").await?;
            let early = bed.capture(1).count(from_node0)?;
            ensure!(
                early == 0,
                "expected no packet of node 0 on link 1 before forwarding is on, saw {early}"
            );

            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;
            ping::answers(bed.node(0), "192.168.1.1").await?;
            ping::answers(bed.node(1), "192.168.0.1").await?;
            let server = iperf3::serve(bed.node(1)).await?;
            let udp = iperf3::measure(bed.node(0), "192.168.1.1", iperf3::Load::UdpDatagrams(50)).await?;
            ensure!(
                udp.lost_datagrams == 0,
                "expected no datagram to be lost, saw {}",
                udp.lost_datagrams
            );
            iperf3::measure(bed.node(0), "192.168.1.1", iperf3::Load::TcpBytes(100_000)).await?;
            server.stop().await?;
            carrot::poweroff(bed, shell).await?;

            check_wire(bed.capture(0), bed.capture(1))
        })
        .await?;
    Ok(())
}

/// What arrived on link 1 is what node 0 sent on link 0, with the time to live one less, and the other way round.
fn check_wire(link0: &Capture, link1: &Capture) -> Result<()> {
    // The requests that were sent before forwarding was on did not cross, and must not have.
    let requests =
        |packet: &Packet<'_>| from_node0(packet) && to_node1(packet) && packet.icmp().is_some_and(is_request);
    let (sent, crossed) = (link0.count(requests)?, link1.count(requests)?);
    ensure!(
        crossed < sent,
        "expected echo requests from before forwarding on link 0 alone, saw {crossed} of {sent} cross"
    );
    let there = |kind: fn(&Packet<'_>) -> bool| move |packet: &Packet<'_>| kind(packet) && from_node0(packet);
    let back = |kind: fn(&Packet<'_>) -> bool| {
        move |packet: &Packet<'_>| kind(packet) && to_node0(packet) && from_node1(packet)
    };
    wire::forwarded(link1, link0, back(|packet| packet.icmp().is_some()))?;
    for kind in [
        |packet: &Packet<'_>| packet.udp().is_some(),
        |packet: &Packet<'_>| packet.tcp().is_some(),
    ] {
        wire::forwarded(link0, link1, there(kind))?;
        wire::forwarded(link1, link0, back(kind))?;
    }
    Ok(())
}

fn is_request(icmp: alpy::pcap::Icmp<'_>) -> bool {
    icmp.echo.is_some_and(|echo| echo.request)
}

fn from_node0(packet: &Packet<'_>) -> bool {
    packet
        .ip()
        .is_some_and(|ip| ip.source == IpAddr::from([192, 168, 0, 1]))
}

fn to_node0(packet: &Packet<'_>) -> bool {
    packet
        .ip()
        .is_some_and(|ip| ip.destination == IpAddr::from([192, 168, 0, 1]))
}

fn from_node1(packet: &Packet<'_>) -> bool {
    packet
        .ip()
        .is_some_and(|ip| ip.source == IpAddr::from([192, 168, 1, 1]))
}

fn to_node1(packet: &Packet<'_>) -> bool {
    packet
        .ip()
        .is_some_and(|ip| ip.destination == IpAddr::from([192, 168, 1, 1]))
}
