// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit lets through what its rules allow, and nothing else reaches the wire behind it.

use std::time::Duration;

use alpy::pcap::{Packet, filter};
use alpy::{Link, Testbed, step};
use anyhow::{Result, ensure};
use carrot::{http, ping};

const SERVER: [u8; 4] = [192, 168, 1, 1];

#[tokio::test]
async fn firewall() -> Result<()> {
    Testbed::builder("firewall")
        .description("Check that rabbit lets HTTP through and nothing else.")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .run(async |bed| {
            let _server = http::serve(bed.node(1), "server").await?;
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;

            let pages = step!("Send requests", http::requests(bed.node(0), "192.168.1.1", 3)).await?;
            ensure!(pages.get("server") == Some(&3), "expected 3 pages, saw {pages:?}");
            // A ping is dropped, and so is a connection to another port, and one of the other side.
            ping::is_lost(bed.node(0), "192.168.1.1").await?;
            carrot::tcp::is_dropped(bed.node(0), "192.168.1.1", 81).await?;
            carrot::tcp::is_dropped(bed.node(1), "192.168.0.1", 80).await?;

            let (inside, outside) = (bed.capture(0), bed.capture(1));
            // Each kind reaches the rabbit, and does not come out at the other side.
            let (from_outside, opened) = (filter::ip_from(SERVER), filter::tcp_syn_to(80));
            let opened_outside = move |packet: &Packet<'_>| from_outside(packet) && opened(packet);
            let asked = [
                ("pings on link 0", inside.count(filter::icmp_echo_to(SERVER))?),
                (
                    "connections to port 81 on link 0",
                    inside.count(filter::tcp_syn_to(81))?,
                ),
                (
                    "connections to port 80 on link 1",
                    outside.count(&opened_outside)?,
                ),
            ];
            for (what, count) in asked {
                ensure!(count > 0, "expected {what}, which are to be dropped, saw none");
            }
            let none = Duration::ZERO;
            outside.expect_none(filter::icmp_echo_to(SERVER), none).await?;
            outside.expect_none(filter::tcp_syn_to(81), none).await?;
            inside.expect_none(&opened_outside, none).await?;
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}
