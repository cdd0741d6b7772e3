// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit hides a network behind its own address: the wire outside shows no other.

use std::net::Ipv4Addr;
use std::time::Duration;

use alpy::pcap::{Packet, filter};
use alpy::{Link, Testbed, step};
use anyhow::{Context, Result, ensure};
use carrot::http;

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

const SOON: Duration = Duration::from_secs(2);

#[tokio::test]
async fn nat() -> Result<()> {
    Testbed::builder("nat")
        .description("Check that rabbit translates addresses.")
        .machine(rabbit::machine()?)
        .link(Link::new().address(format!("{CLIENT}/24")).gateway("192.168.0.2"))
        // The server knows no way to the network inside.
        .link(Link::new().address(format!("{SERVER}/24")))
        .run(async |bed| {
            let server = http::serve(bed.node(1), "outside").await?;
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;

            let server_address = SERVER.to_string();
            let requests = http::requests(bed.node(0), &server_address, 5);
            let pages = step!("Send requests", requests).await?;
            ensure!(
                pages.get("outside") == Some(&5),
                "expected 5 pages, saw {pages:?}"
            );
            server.stop().await?;
            carrot::poweroff(bed, shell).await?;

            let opened = filter::tcp_syn_to(80);
            // A busy machine may have one of them asked for twice.
            let connections = |link: usize| -> Result<Vec<Packet<'static>>> {
                let mut packets = bed.capture(link).filter(&opened)?;
                packets.dedup_by_key(|packet| packet.tcp().map(|tcp| tcp.sequence));
                Ok(packets)
            };
            let (inside, outside) = (connections(0)?, connections(1)?);
            ensure!(
                inside.len() == 5 && outside.len() == 5,
                "expected 5 connections on both links, saw {} and {}",
                inside.len(),
                outside.len()
            );
            for (inside, outside) in inside.iter().zip(&outside) {
                let source = inside.ip().context("TCP is IP")?.source;
                ensure!(source == CLIENT, "expected the client on link 0, saw {inside}");
                let source = outside.ip().context("TCP is IP")?.source;
                ensure!(
                    source == OUTSIDE,
                    "expected the router's address on link 1, saw {outside}"
                );
            }
            bed.capture(0).expect(filter::ip_from(SERVER), SOON).await?;
            bed.capture(1)
                .expect_none(filter::ip_from(CLIENT), Duration::ZERO)
                .await?;
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}
