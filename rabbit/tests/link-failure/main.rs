// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit has two ways out, and takes the second one as soon as the cable of the first is pulled.

use std::time::{Duration, Instant};

use alpy::pcap::filter;
use alpy::{Link, Testbed};
use anyhow::{Context, Result, ensure};
use carrot::ping;
use tracing::info;

/// An address behind both ways.
const SERVER: [u8; 4] = [203, 0, 113, 1];

/// How long traffic may take to go the other way. Linux itself waits for up to a second before it believes that a carrier is gone.
const BOUND: Duration = Duration::from_secs(3);

#[tokio::test]
async fn link_failure() -> Result<()> {
    let uplink = |net: u8| {
        Link::new()
            .address(format!("192.168.{net}.1/24"))
            .address("203.0.113.1/32")
            .gateway(format!("192.168.{net}.2"))
    };
    Testbed::builder("link-failure")
        .description("Check that rabbit takes another way when a cable is pulled.")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(uplink(1))
        .link(uplink(2))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;
            ping::answers(bed.node(0), "203.0.113.1").await?;
            let (first, second) = (bed.capture(1), bed.capture(2));
            let requests = second.count(filter::icmp_echo_to(SERVER))?;
            ensure!(
                requests == 0,
                "expected the first way to be taken, saw {requests} requests on link 2"
            );

            let _pings = ping::without_end(bed.node(0), "203.0.113.1").await?;
            let running = first.mark("running")?;
            first
                .since(&running)?
                .expect(filter::icmp_reply_from(SERVER), BOUND)
                .await?;
            let pulled = second.mark("pulled")?;
            let began = Instant::now();
            bed.cable(1).unplug().await?;
            let moved = second
                .since(&pulled)?
                .expect(filter::icmp_reply_from(SERVER), BOUND)
                .await;
            moved.context("expected traffic on link 2 after link 1 was unplugged")?;
            info!("Traffic takes the other way after {:.0?}", began.elapsed());
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}
