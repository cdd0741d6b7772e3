// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit lets 1 Mbit/s through.

use std::ops::RangeInclusive;

use alpy::{Link, Testbed, step};
use anyhow::{Result, ensure};
use carrot::{iperf3, wire};
use tracing::info;

/// The limit in `configure-rabbit`, in bits per second.
const LIMIT: f64 = 1_000_000.0;

/// What the wire carries while packets flow: the limit, and on top the burst that it allows.
const ON_THE_WIRE: RangeInclusive<f64> = 0.90 * LIMIT..=1.02 * LIMIT;

/// What of it reaches the application. The headers of its frames count against the limit, and so does what TCP sends twice: the
/// limit drops, and a busy machine is late with acknowledgements.
const RECEIVED: RangeInclusive<f64> = 0.70 * LIMIT..=1.02 * LIMIT;

#[tokio::test]
async fn rate_limit() -> Result<()> {
    let rate = Testbed::builder("rate-limit")
        .description("Check that rabbit rate-limits traffic.")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.1.1/24"))
        .link(Link::new().address("192.168.1.2/24"))
        .run(async |bed| {
            let server = iperf3::serve(bed.node(1)).await?;
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;
            let report = iperf3::measure(bed.node(0), "192.168.1.2", iperf3::Load::TcpSeconds(5)).await?;
            server.stop().await?;
            carrot::poweroff(bed, shell).await?;

            let rate = report.bits_per_second;
            info!("Rate received, bits per second: {rate:.0}");
            step!("Check rate", async {
                ensure!(
                    RECEIVED.contains(&rate),
                    "expected a rate of {RECEIVED:?} bits per second, saw {rate:.0}"
                );
                Ok(())
            })
            .await?;
            step!("Check rate on the wire", async {
                // Whole frames, as the rabbit sent them on: nothing in the guest or in iperf3 has a say in this.
                let data = |packet: &alpy::pcap::Packet<'_>| {
                    packet.tcp().is_some() && packet.frame().original_len() > 1000
                };
                let rate = wire::rate(bed.capture(1), data)?;
                info!(
                    "Rate on the wire, bits per second: {:.0}, median {:.0}",
                    rate.average, rate.median
                );
                ensure!(
                    ON_THE_WIRE.contains(&rate.median) && rate.average <= *ON_THE_WIRE.end(),
                    "expected {ON_THE_WIRE:?} bits per second on the wire, saw {:.0}, median {:.0}",
                    rate.average,
                    rate.median
                );
                Ok(())
            })
            .await?;
            anyhow::Ok(rate)
        })
        .await?;
    assert!(rate > 0.0);
    Ok(())
}
