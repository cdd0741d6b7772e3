// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit takes jumbo frames, tells a sender when a packet is too large for the way on, and takes it in fragments then.

use std::time::Duration;

use alpy::pcap::{Packet, filter};
use alpy::{Link, Testbed};
use anyhow::{Context, Result, ensure};
use carrot::ping;

const ROUTER: [u8; 4] = [192, 168, 0, 2];
const FAR: [u8; 4] = [192, 168, 1, 1];

const SOON: Duration = Duration::from_secs(2);

/// More than fits an Ethernet frame, and less than a jumbo one holds.
const PAYLOAD: u32 = 8000;

fn too_large(packet: &Packet<'_>) -> bool {
    packet
        .icmp()
        .is_some_and(|icmp| (icmp.icmp_type, icmp.code) == (3, 4))
}

#[tokio::test]
async fn mtu() -> Result<()> {
    Testbed::builder("mtu")
        .description("Check that rabbit handles packets that are too large for one of its networks.")
        .machine(rabbit::machine()?)
        .link(
            Link::new()
                .mtu_bytes(9000)
                .address("192.168.0.1/24")
                .gateway("192.168.0.2"),
        )
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;

            ping::answers_with(bed.node(0), "192.168.0.2", PAYLOAD).await?;
            let jumbo = bed
                .capture(0)
                .expect(filter::icmp_reply_from(ROUTER), SOON)
                .await?;
            let length = jumbo.frame().original_len();
            ensure!(
                length == PAYLOAD + 42,
                "expected the reply in one jumbo frame, saw {length} bytes"
            );

            // The first request is lost: it is what the router complains about.
            let _ = ping::answers_with(bed.node(0), "192.168.1.1", PAYLOAD).await;
            let told = bed.capture(0).expect(too_large, SOON).await;
            told.context("expected to be told that fragmentation is needed")?;
            ping::answers_with(bed.node(0), "192.168.1.1", PAYLOAD).await?;
            let to_far = filter::ip_to(FAR);
            let fragment =
                |packet: &Packet<'_>| to_far(packet) && packet.ip().is_some_and(|ip| ip.fragment.is_some());
            bed.capture(1).expect(fragment, SOON).await?;
            let large = bed
                .capture(1)
                .count(|packet| packet.frame().original_len() > 1514)?;
            ensure!(
                large == 0,
                "expected no frame above 1514 bytes on link 1, saw {large}"
            );
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}
