// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit lets 1 Mbit/s through.

use alpy::pcap::Packet;
use alpy::{Link, Testbed};
use anyhow::Result;
use carrot::{iperf3, rate};

/// The limit in `configure-rabbit`, in Mbit/s.
const LIMIT: f64 = 1.0;

/// The burst in `configure-rabbit`, in Mbit. A stretch may begin with a burst.
const BURST: f64 = 8.0 * 8192.0 / 1e6;

/// The least part of the limit that passes while the machine runs.
const LEAST: f64 = 0.90;

#[tokio::test]
async fn rate_limit() -> Result<()> {
    Testbed::builder("rate-limit")
        .description("Check that rabbit rate-limits traffic.")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.1.1/24"))
        .link(Link::new().address("192.168.1.2/24"))
        .run(async |bed| {
            let server = iperf3::serve(bed.node(1)).await?;
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;
            let most = LIMIT + BURST / rate::STRETCH.as_secs_f64();
            let load =
                async || iperf3::measure(bed.node(0), "192.168.1.2", iperf3::Load::TcpSeconds(8)).await;
            rate::expect(bed, 1, is_data, LEAST * LIMIT..=most, load).await?;
            server.stop().await?;
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}

/// Whole frames, as the rabbit sent them on: nothing in the guest or in iperf3 has a say in this.
fn is_data(packet: &Packet<'_>) -> bool {
    packet.tcp().is_some() && packet.frame().original_len() > 1000
}
