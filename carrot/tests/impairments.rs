// SPDX-License-Identifier: GPL-3.0-or-later
//! Links that are slow or lossy, by the traffic control of a node's kernel.

use std::time::{Duration, Instant};

use alpy::netns::Impairment;
use alpy::pcap::filter;
use alpy::{Link, Testbed};
use alpy_need::need;
use anyhow::{Context, Result, ensure};
use carrot::iperf3::{self, Load};
use carrot::{ping, wire};

#[tokio::test]
async fn a_node_sends_at_its_rate_and_with_its_delay() -> Result<()> {
    need!(docker, qemu => Ok(()));
    Testbed::builder("impairments")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-router", include_str!("configure-router")).await?;
            let (node, server) = (bed.node(0), iperf3::serve(bed.node(1)).await?);

            node.impair(|impairment| impairment.rate_bits(1_000_000)).await?;
            let limited = bed.capture(0).mark("limited")?;
            iperf3::measure(node, "192.168.1.1", Load::TcpSeconds(3)).await?;
            let sent = bed.capture(0).since(&limited)?;
            let from = filter::ip_from([192, 168, 0, 1]);
            let data = |packet: &alpy::pcap::Packet<'_>| from(packet) && packet.frame().original_len() > 1000;
            let rate = wire::rate(&sent, data)?;
            ensure!(
                (900_000.0..=1_050_000.0).contains(&rate.median),
                "expected 1 Mbit/s on link 0, saw {rate:?}"
            );

            let late = node
                .impair(|impairment| impairment.delay(Duration::from_millis(200)))
                .await;
            match late {
                Err(error) => {
                    let text = format!("{:#}", anyhow::Error::from(error));
                    for part in ["sch_netem", "modprobe", "rate 1000000 bit/s, delay 200ms"] {
                        ensure!(text.contains(part), "expected {part:?} in the error, saw {text}");
                    }
                    // The rate is what it was.
                    let mark = bed.capture(0).mark("still limited")?;
                    iperf3::measure(node, "192.168.1.1", Load::TcpSeconds(2)).await?;
                    let rate = wire::rate(&bed.capture(0).since(&mark)?, data)?;
                    ensure!(
                        rate.median < 1_050_000.0,
                        "expected 1 Mbit/s on link 0, saw {rate:?}"
                    );
                }
                Ok(()) => {
                    // Each of the requests leaves when the last was answered.
                    let began = Instant::now();
                    ping::answers(node, "192.168.1.1").await?;
                    let took = began.elapsed();
                    let least = Duration::from_millis(200) * ping::REQUESTS;
                    ensure!(
                        took >= least,
                        "expected {least:?} at least for the requests, saw {took:?}"
                    );
                }
            }

            node.impair(|_| Impairment::new()).await?;
            let receiver = bed.node(1);
            match receiver
                .impair_received(|impairment| impairment.rate_bits(1_000_000))
                .await
            {
                Err(error) => {
                    let text = format!("{:#}", anyhow::Error::from(error));
                    for part in [
                        "impair what comes in through eth0: rate 1000000 bit/s",
                        "the kernel has no ",
                        "modprobe",
                    ] {
                        ensure!(text.contains(part), "expected {part:?} in the error, saw {text}");
                    }
                }
                Ok(()) => {
                    let report = iperf3::measure(node, "192.168.1.1", Load::TcpSeconds(3)).await?;
                    ensure!(
                        report.bits_per_second < 1_050_000.0,
                        "expected 1 Mbit/s behind link 1, saw {report:?}"
                    );
                    receiver.impair_received(|_| Impairment::new()).await?;
                }
            }

            let free = bed.capture(0).mark("free")?;
            iperf3::measure(node, "192.168.1.1", Load::TcpBytes(2_000_000)).await?;
            let rate = wire::rate(&bed.capture(0).since(&free)?, data)?;
            ensure!(
                rate.median > 2_000_000.0,
                "expected more than 2 Mbit/s without a limit, saw {rate:?}"
            );

            let bad = node.impair(|impairment| impairment.loss(7.0)).await;
            let text = format!("{:#}", anyhow::Error::from(bad.err().context("7.0 is no share")?));
            ensure!(text.contains("the loss is no share of all frames"), "{text}");
            server.stop().await
        })
        .await?;
    Ok(())
}
