// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit routes between two VLANs on one link: what comes with the tag of one leaves with that of the other.

use std::time::Duration;

use alpy::pcap::{MacAddr, Packet, filter};
use alpy::{Link, Testbed};
use anyhow::{Context, Result, ensure};
use carrot::frames;

const CLIENT: [u8; 4] = [192, 168, 10, 1];
const SERVER: [u8; 4] = [192, 168, 20, 1];

/// Of the rabbit's first NIC, and those that nobody has but this test.
const RABBIT_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
const SERVER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x20];

const SOON: Duration = Duration::from_secs(5);

const UDP: u8 = 17;
const PORT: u16 = 5000;

#[tokio::test]
async fn vlan_router() -> Result<()> {
    Testbed::builder("vlan-router")
        .description("Check that rabbit routes between VLANs.")
        .machine(rabbit::machine()?)
        .link(Link::new())
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;

            // The node's kernel need not know of VLANs: the frame is sent as it is.
            let datagram = [&[0x0f, 0xa0][..], &PORT.to_be_bytes(), &[0, 12, 0, 0], b"stay"].concat();
            let packet = frames::ipv4(CLIENT, SERVER, UDP, &[], 0, &datagram);
            let tag = [0x81, 0x00, 0x60, 10, 0x08, 0x00];
            let frame = [&RABBIT_MAC[..], &CLIENT_MAC, &tag, &packet].concat();
            frames::send(bed.node(0), &[frame]).await?;

            let (to_port, tagged) = (filter::udp_to(PORT), filter::vlan(20));
            let routed = bed
                .capture(0)
                .expect(|packet: &Packet<'_>| to_port(packet) && tagged(packet), SOON);
            let routed = routed.await.context("expected the packet in VLAN 20")?;
            let destination = routed.ethernet().map(|ethernet| ethernet.destination);
            ensure!(
                destination == Some(MacAddr(SERVER_MAC)),
                "expected the server's hardware address, saw {destination:?}"
            );
            let ttl = routed.ip().map(|ip| ip.ttl);
            ensure!(ttl == Some(63), "expected a time to live one less, saw {ttl:?}");
            ensure!(
                routed.payload() == b"stay",
                "expected the payload as it was, saw {:?}",
                routed.payload()
            );
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}
