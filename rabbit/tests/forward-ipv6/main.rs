// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit routes IPv6 packets between two networks, their hop limit one less.

use std::net::Ipv6Addr;
use std::time::Duration;

use alpy::pcap::filter;
use alpy::{Link, Testbed};
use anyhow::{Result, ensure};
use carrot::ping;

const NODE0: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 1);
const NODE1: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 1);

/// What is on the wire is in the capture within that time.
const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn forward_ipv6() -> Result<()> {
    Testbed::builder("forward-ipv6")
        .description("Check that rabbit forwards IPv6 packets.")
        .machine(rabbit::machine()?)
        .link(
            Link::new()
                .address(format!("{NODE0}/64"))
                .gateway("fd00:0:0:1::2"),
        )
        .link(
            Link::new()
                .address(format!("{NODE1}/64"))
                .gateway("fd00:0:0:2::2"),
        )
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;

            ping::answers(bed.node(0), &NODE1.to_string()).await?;
            ping::answers(bed.node(1), &NODE0.to_string()).await?;
            let sent = bed.capture(0).expect(filter::icmp_echo_to(NODE1), SOON).await?;
            let crossed = bed.capture(1).expect(filter::icmp_echo_to(NODE1), SOON).await?;
            let [before, after] = [&sent, &crossed].map(|packet| packet.ip().map(|ip| ip.ttl));
            ensure!(
                before == Some(64) && after == Some(63),
                "expected a hop limit of 64 before the router and 63 behind it, saw {before:?} and {after:?}"
            );
            ensure!(
                sent.payload() == crossed.payload(),
                "expected the payload to cross as it is: {sent}, {crossed}"
            );
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}
