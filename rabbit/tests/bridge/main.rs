// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit hands on frames that bridges keep for themselves, and VLAN tags.

use std::time::Duration;

use alpy::pcap::filter;
use alpy::{Link, Testbed};
use anyhow::{Context, Result};
use carrot::frames;

const SOURCE: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// For one frame.
const SOON: Duration = Duration::from_secs(5);

fn frame(destination: [u8; 6], rest: &[u8]) -> Vec<u8> {
    let mut frame = [&destination, &SOURCE, rest].concat();
    frame.resize(60, 0);
    frame
}

#[tokio::test]
async fn bridge() -> Result<()> {
    // Linux hands it on to nobody. It is sent first, so that it would be there when the others are.
    let kept = frame([0x01, 0x80, 0xc2, 0, 0, 2], &[0x88, 0x09, 1, 1]);
    let sent = [
        (
            "STP",
            frame([0x01, 0x80, 0xc2, 0, 0, 0], &[0, 38, 0x42, 0x42, 3, 0, 0, 0, 0]),
        ),
        (
            "802.1X",
            frame([0x01, 0x80, 0xc2, 0, 0, 3], &[0x88, 0x8e, 2, 1, 0, 0]),
        ),
        (
            "LLDP",
            frame(
                [0x01, 0x80, 0xc2, 0, 0, 0x0e],
                &[0x88, 0xcc, 2, 7, 4, 2, 0, 0, 0, 0, 1],
            ),
        ),
        (
            "a frame of VLAN 100",
            frame([0x02, 0, 0, 0, 0, 2], &[0x81, 0, 0x60, 100, 0x88, 0xb5, 1, 2, 3]),
        ),
        (
            "a frame with two tags",
            frame(
                [0x02, 0, 0, 0, 0, 2],
                &[0x88, 0xa8, 0, 10, 0x81, 0, 0, 20, 0x88, 0xb5],
            ),
        ),
    ];
    Testbed::builder("bridge")
        .description("Check that rabbit hands on STP frames and VLAN tags.")
        .machine(rabbit::machine()?)
        .link(Link::new())
        .link(Link::new())
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;
            for (from, to) in [(0, 1), (1, 0)] {
                let start = bed.capture(to).mark("before")?;
                let arriving = bed.capture(to).since(&start)?;
                let others = sent.iter().map(|(_, frame)| frame.clone());
                let all: Vec<Vec<u8>> = [kept.clone()].into_iter().chain(others).collect();
                frames::send(bed.node(from), &all).await?;
                for (name, frame) in &sent {
                    let same = arriving
                        .expect(|packet| packet.frame().bytes() == frame, SOON)
                        .await;
                    same.with_context(|| format!("expected {name} to cross from link {from} to link {to}"))?;
                }
                arriving
                    .expect_none(filter::ether_type(0x8809), Duration::ZERO)
                    .await?;
            }
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}
