// SPDX-License-Identifier: GPL-3.0-or-later
//! The captures hold each frame that was on the wire, at the highest rate that rabbit takes.
//!
//! `PACKET_CAPTURE_FRAMES` says how many frames have to pass link 0: 50,000 if it is not set.

use std::time::Duration;

use alpy::{Link, Testbed};
use anyhow::{Context, Result, ensure};
use carrot::iperf3::{self, Load};
use carrot::{ping, wire};

/// How long the load lasts, again and again until there were enough frames.
const SECONDS: u32 = 2;

/// How many more frames a second have to pass than a machine without any load would see.
const LEAST_RATE: f64 = 500.0;

#[tokio::test]
async fn packet_capture() -> Result<()> {
    let wanted = match std::env::var("PACKET_CAPTURE_FRAMES") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("PACKET_CAPTURE_FRAMES={text}"))?,
        Err(_) => 50_000,
    };
    Testbed::builder("packet-capture")
        .description("Check that no frame is missing in the captures.")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .deadline(Duration::from_secs(280))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;
            ping::answers(bed.node(0), "192.168.1.1").await?;

            let server = iperf3::serve(bed.node(1)).await?;
            let mut passed = 0;
            while passed < wanted {
                let flows = [wire::Flow::begin(bed, 0)?, wire::Flow::begin(bed, 1)?];
                iperf3::measure(bed.node(0), "192.168.1.1", Load::UdpFlood(SECONDS)).await?;
                for (link, flow) in flows.into_iter().enumerate() {
                    let (frames, time) = flow.end().await?;
                    let rate = frames as f64 / time.as_secs_f64();
                    tracing::info!("Link {link}: {frames} frames, all of them captured; {rate:.0} a second");
                    ensure!(
                        rate > LEAST_RATE,
                        "expected a flood of frames, saw {rate:.0} a second"
                    );
                    if link == 0 {
                        passed += frames;
                    }
                }
            }
            server.stop().await?;
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}
