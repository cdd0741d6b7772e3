// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit lets 1 Mbit/s through.

use std::time::Duration;

use alpy::pcap::{Capture, Mark, Packet};
use alpy::qemu::ProcessorTime;
use alpy::{Link, Testbed, step};
use anyhow::{Result, ensure};
use carrot::iperf3;
use tokio::time::{Instant, interval_at};
use tracing::info;

/// The limit in `configure-rabbit`, in bits per second.
const LIMIT: f64 = 1_000_000.0;

/// The burst in `configure-rabbit`, in bits. A stretch may begin with one.
const BURST: f64 = 8.0 * 8192.0;

/// The least part of the limit that passes while the machine runs.
const LEAST: f64 = 0.90;

/// Traffic is measured in stretches of this length.
const STRETCH: Duration = Duration::from_secs(1);

/// How many stretches are judged, and how many runs of iperf3 there are at most until there were enough.
const STRETCHES: usize = 4;
const RUNS: usize = 6;

/// A stretch in which the machine did not run for more than this part of the time says nothing about a rate that is too low.
const MOST_STARVED: f64 = 0.33;

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
            let (mut all, mut judged) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                let stretches = traffic(bed).await?;
                judged.extend(stretches.iter().filter(|stretch| stretch.starved <= MOST_STARVED));
                all.extend(stretches);
                if judged.len() >= STRETCHES {
                    break;
                }
            }
            server.stop().await?;
            step!("Check rate on the wire", async { check(bed, &all, &judged) }).await?;
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}

/// What passed link 1 in a stretch of time.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    seconds: f64,
    bits: f64,
    /// For which part of the time the host kept the machine from running.
    starved: f64,
}

/// Runs iperf3 once, and measures meanwhile: whole stretches between the first and the last with traffic.
async fn traffic(bed: &Testbed) -> Result<Vec<Stretch>> {
    let load = iperf3::measure(bed.node(0), "192.168.1.2", iperf3::Load::TcpSeconds(5));
    let mut load = std::pin::pin!(load);
    let mut samples = Vec::new();
    let mut looks = interval_at(Instant::now() + STRETCH, STRETCH);
    let report = loop {
        tokio::select! {
            report = &mut load => break report?,
            _ = looks.tick() => samples.push(Sample::take(bed)?),
        }
    };
    info!("Rate received: {:.3} Mbit/s", report.bits_per_second / 1e6);
    let stretches = samples
        .windows(2)
        .map(|pair| pair[0].stretch_to(&pair[1], bed.capture(1)));
    let stretches: Result<Vec<_>> = stretches.collect();
    // Of the first and the last one, traffic filled a part. The containers take time to start and to end.
    let stretches = stretches?;
    let flows = |stretch: &Stretch| stretch.bits > 0.0;
    let first = stretches.iter().position(flows).map_or(0, |first| first + 1);
    let last = stretches.iter().rposition(flows).unwrap_or(0);
    Ok(stretches[first.min(last)..last].to_vec())
}

/// A moment of a measurement.
struct Sample {
    at: Instant,
    mark: Mark,
    processor: Option<ProcessorTime>,
}

impl Sample {
    fn take(bed: &Testbed) -> Result<Self> {
        Ok(Self {
            mark: bed.capture(1).mark("stretch")?,
            at: Instant::now(),
            processor: bed.dut(0).processor_time(),
        })
    }

    fn stretch_to(&self, end: &Self, capture: &Capture) -> Result<Stretch> {
        let part = capture.since(&self.mark)?.until(&end.mark)?;
        let mut bits = 0.0;
        part.for_each(|packet| {
            if is_data(packet) {
                bits += 8.0 * f64::from(packet.frame().original_len());
            }
        })?;
        let seconds = (end.at - self.at).as_secs_f64();
        let processor = end.processor.zip(self.processor);
        let starved = processor.map(|(end, begin)| end.since(&begin).starved().as_secs_f64());
        Ok(Stretch {
            seconds,
            bits,
            starved: starved.unwrap_or(0.0) / seconds,
        })
    }
}

/// Whole frames, as the rabbit sent them on: nothing in the guest or in iperf3 has a say in this.
fn is_data(packet: &Packet<'_>) -> bool {
    packet.tcp().is_some() && packet.frame().original_len() > 1000
}

/// The mean of stretches: a rate in Mbit/s, and the part of the time in which the machine did not run.
fn mean(stretches: &[Stretch]) -> (f64, f64) {
    let sum = |of: fn(&Stretch) -> f64| stretches.iter().map(of).sum::<f64>();
    let seconds = sum(|stretch| stretch.seconds).max(f64::MIN_POSITIVE);
    (
        sum(|stretch| stretch.bits) / seconds / 1e6,
        sum(|stretch| stretch.starved * stretch.seconds) / seconds,
    )
}

fn check(bed: &Testbed, all: &[Stretch], judged: &[Stretch]) -> Result<()> {
    for Stretch {
        seconds,
        bits,
        starved,
    } in all
    {
        let (rate, starved) = (bits / seconds / 1e6, 100.0 * starved);
        info!(
            "On the wire: {rate:.3} Mbit/s for {seconds:.1} s, the machine starved for {starved:.0} % of them"
        );
    }
    ensure!(!all.is_empty(), "expected traffic on link 1, saw none");
    // However busy the host is, it does not make a rate too high.
    let most = (LIMIT + BURST / STRETCH.as_secs_f64()) / 1e6;
    let (rate, _) = mean(all);
    ensure!(
        rate <= most,
        "expected a rate of at most {most:.2} Mbit/s on the wire, measured {rate:.3} (mean of {} stretches)",
        all.len()
    );
    let count = judged.len();
    if count < STRETCHES {
        let why = format!(
            "the machine ran for at least {:.0} % of the time in {count} of {} stretches of 1 s, and {STRETCHES} are needed to judge a rate",
            100.0 * (1.0 - MOST_STARVED),
            all.len()
        );
        return Err(bed.cannot_be_judged(why).into());
    }
    // While the machine does not run, nothing passes.
    let (rate, starved) = mean(judged);
    let least = LEAST * LIMIT * (1.0 - starved) / 1e6;
    info!("Judged: {rate:.3} Mbit/s, the mean of {count} stretches; at least {least:.2} is expected");
    ensure!(
        rate >= least,
        "expected a rate of {least:.2} to {most:.2} Mbit/s on the wire, measured {rate:.3} (mean of {count} stretches, in which the \
         host kept the machine from running for {:.0} % of the time)",
        100.0 * starved
    );
    Ok(())
}
