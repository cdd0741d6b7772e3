// SPDX-License-Identifier: GPL-3.0-or-later
//! The captures hold each frame that was on the wire, at the highest rate that rabbit takes. The log says what that rate is, and what it is
//! on links without captures.
//!
//! `PACKET_CAPTURE_FRAMES` says how many frames have to pass link 0, with captures and then without: 50,000 if it is not set.

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
    let with = flood("packet-capture", wanted, Captures::Complete).await?;
    let without = flood("packet-capture-without", wanted, Captures::None).await?;
    println!(
        "frames a second on link 0: {:.0} with captures, {:.0} without, ratio {:.2}; on link 1: {:.0}, {:.0}, {:.2}",
        with[0],
        without[0],
        with[0] / without[0],
        with[1],
        without[1],
        with[1] / without[1]
    );
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Captures {
    /// They have to hold each frame.
    Complete,
    None,
}

/// Has rabbit forward as many frames as it can. How many passed each link in a second of load, as the kernel counts at the taps.
async fn flood(name: &str, wanted: u64, captures: Captures) -> Result<[f64; 2]> {
    let link = |network: u8| {
        let link = Link::new()
            .address(format!("192.168.{network}.1/24"))
            .gateway(format!("192.168.{network}.2"));
        match captures {
            Captures::Complete => link,
            Captures::None => link.without_capture(),
        }
    };
    let rates = Testbed::builder(name)
        .description("Check that no frame is missing in the captures, and see what they cost.")
        .machine(rabbit::machine()?)
        .link(link(0))
        .link(link(1))
        .deadline(Duration::from_secs(280))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;
            ping::answers(bed.node(0), "192.168.1.1").await?;

            let server = iperf3::serve(bed.node(1)).await?;
            let (mut passed, mut seconds) = ([0; 2], 0);
            while passed[0] < wanted {
                let frames = match captures {
                    Captures::Complete => captured(bed).await?,
                    Captures::None => counted(bed).await?,
                };
                seconds += SECONDS;
                for link in [0, 1] {
                    let rate = frames[link] as f64 / f64::from(SECONDS);
                    ensure!(
                        rate > LEAST_RATE,
                        "expected a flood of frames, saw {rate:.0} a second"
                    );
                    passed[link] += frames[link];
                }
            }
            server.stop().await?;
            carrot::poweroff(bed, shell).await?;
            anyhow::Ok(passed.map(|frames| frames as f64 / f64::from(seconds)))
        })
        .await?;
    Ok(rates)
}

/// The frames that pass each link under the load. All of them, and no others, are in the captures.
async fn captured(bed: &Testbed) -> Result<[u64; 2]> {
    let (near, far) = (wire::Flow::begin(bed, 0)?, wire::Flow::begin(bed, 1)?);
    iperf3::measure(bed.node(0), "192.168.1.1", Load::UdpFlood(SECONDS)).await?;
    let (near, far) = (near.end().await?.0, far.end().await?.0);
    tracing::info!("{near} frames on link 0 and {far} on link 1, all of them captured");
    Ok([near, far])
}

/// The same without captures.
async fn counted(bed: &Testbed) -> Result<[u64; 2]> {
    let (near, far) = (wire::Count::begin(bed, 0)?, wire::Count::begin(bed, 1)?);
    iperf3::measure(bed.node(0), "192.168.1.1", Load::UdpFlood(SECONDS)).await?;
    let (near, far) = (near.end().await?, far.end().await?);
    tracing::info!("{near} frames on link 0 and {far} on link 1");
    Ok([near, far])
}
