// SPDX-License-Identifier: GPL-3.0-or-later
//! Links that are slow or lossy, by the traffic control of a node's kernel.

use std::time::{Duration, Instant};

use alpy::netns::Impairment;
use alpy::pcap::{Packet, filter};
use alpy::{Link, Testbed};
use alpy_need::need;
use anyhow::{Context, Result, ensure};
use carrot::iperf3::{self, Load};
use carrot::{ping, rate};

/// The bounds for a limit of 1 Mbit/s, in Mbit/s. The upper one is higher because a stretch may begin with a full bucket.
const LEAST: f64 = 0.90;
const MOST: f64 = 1.05;

/// These bytes take 16 s at 1 Mbit/s. Without a limit they must take less than half of that.
const FREE_BYTES: u32 = 2_000_000;
const FREE_LIMIT: Duration = Duration::from_secs(8);

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

            let from = filter::ip_from([192, 168, 0, 1]);
            let data = |packet: &Packet<'_>| from(packet) && packet.frame().original_len() > 1000;
            let limited = async || iperf3::measure(node, "192.168.1.1", Load::TcpSeconds(8)).await;
            node.impair(|impairment| impairment.rate_bits(1_000_000)).await?;
            rate::expect(bed, 0, data, LEAST..=MOST, limited).await?;

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
                    rate::expect(bed, 0, data, 0.0..=MOST, limited).await?;
                }
                Ok(()) => {
                    // Each of the requests leaves when the last was answered.
                    let began = Instant::now();
                    ping::answers(node, "192.168.1.1").await?;
                    let took = began.elapsed();
                    let least = Duration::from_millis(200) * ping::REQUESTS;
                    ensure!(
                        took >= least,
                        "expected {least:.0?} at least for the requests, saw {took:.0?}"
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
                    // A busy host cannot make a rate too high.
                    let received = report.bits_per_second / 1e6;
                    ensure!(
                        received <= MOST,
                        "expected a rate of at most {MOST:.2} Mbit/s behind link 1, iperf3 measured {received:.3}"
                    );
                    receiver.impair_received(|_| Impairment::new()).await?;
                }
            }

            carrot::judged(bed, async || {
                let free = bed.capture(0).mark("free")?;
                iperf3::measure(node, "192.168.1.1", Load::TcpBytes(FREE_BYTES)).await?;
                let (mut first, mut last) = (None, Duration::ZERO);
                bed.capture(0).since(&free)?.for_each(|packet| {
                    if data(packet) {
                        last = packet.frame().timestamp();
                        first.get_or_insert(last);
                    }
                })?;
                let took = last - first.context("expected data on link 0, saw none")?;
                Ok((took >= FREE_LIMIT).then(|| {
                    format!("expected 2 MB on link 0 within {FREE_LIMIT:?} without a limit, saw {took:.1?}")
                }))
            })
            .await?;

            let bad = node.impair(|impairment| impairment.loss(7.0)).await;
            let text = format!("{:#}", anyhow::Error::from(bad.err().context("7.0 is no share")?));
            ensure!(text.contains("the loss is no share of all frames"), "{text}");
            server.stop().await
        })
        .await?;
    Ok(())
}
