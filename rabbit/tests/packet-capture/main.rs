// SPDX-License-Identifier: GPL-3.0-or-later
//! The captures hold each frame that was on the wire, at the highest rate that rabbit takes. The log says what that rate is, and what it is on
//! links without captures; and QEMU's processor time for a frame, which tells more where other programs run.
//!
//! `PACKET_CAPTURE_FRAMES` says how many frames have to pass link 0: 20,000 if it is not set.

use std::fs;
use std::time::Duration;

use alpy::qemu::ProcessorTime;
use alpy::{Link, Testbed};
use anyhow::{Context, Result, bail};
use carrot::iperf3::{self, Load};
use carrot::{ping, wire};

/// How long the load lasts, on the links with captures and on those without in turn, until there were enough frames: a busy machine has
/// less time for the one or the other.
const SECONDS: u32 = 1;

/// How many more frames a second have to pass than a machine without any load would see.
const LEAST_RATE: f64 = 500.0;

#[tokio::test]
async fn packet_capture() -> Result<()> {
    let wanted: u64 = match std::env::var("PACKET_CAPTURE_FRAMES") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("PACKET_CAPTURE_FRAMES={text}"))?,
        Err(_) => 20_000,
    };
    let link = |network: u8| {
        Link::new()
            .address(format!("192.168.{network}.1/24"))
            .gateway(format!("192.168.{network}.2"))
    };
    Testbed::builder("packet-capture")
        .description("Check that no frame is missing in the captures, and see what they cost.")
        .machine(rabbit::machine()?)
        .link(link(0))
        .link(link(1))
        .link(link(2).without_capture())
        .link(link(3).without_capture())
        .deadline(Duration::from_secs(120 + wanted / 2_000))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;
            ping::answers(bed.node(0), "192.168.1.1").await?;
            ping::answers(bed.node(2), "192.168.3.1").await?;

            let servers = [
                iperf3::serve(bed.node(1)).await?,
                iperf3::serve(bed.node(3)).await?,
            ];
            let (mut passed, mut with, mut without) = (0, Vec::new(), Vec::new());
            while passed < wanted {
                let before = processor_time(bed)?;
                let began = bed.dut(0).processor_time();
                let frames = captured(bed).await?;
                let between = processor_time(bed)?;
                passed += frames[0];
                with.push(Sample::of(frames, between - before, bed, began)?);
                let began = bed.dut(0).processor_time();
                let frames = counted(bed).await?;
                without.push(Sample::of(frames, processor_time(bed)? - between, bed, began)?);
            }
            for (what, value) in [
                ("Frames a second", (|sample| sample.rate) as fn(&Sample) -> f64),
                ("Processor time for a frame in µs", |sample| sample.microseconds),
            ] {
                let [with, without] =
                    [&with, &without].map(|samples| median(samples.iter().map(value).collect()));
                tracing::info!(
                    "{what}: {with:.1} with captures, {without:.1} without, which is {:.2} times that",
                    without / with
                );
            }
            for server in servers {
                server.stop().await?;
            }
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}

/// The frames that pass the links 0 and 1 under the load. All of them, and no others, are in the captures.
async fn captured(bed: &Testbed) -> Result<[u64; 2]> {
    let flows = (wire::Flow::begin(bed, 0)?, wire::Flow::begin(bed, 1)?);
    iperf3::measure(bed.node(0), "192.168.1.1", Load::UdpFlood(SECONDS)).await?;
    let frames = [flows.0.end().await?.0, flows.1.end().await?.0];
    tracing::info!("With captures: {frames:?} frames on the two links, all of them captured");
    Ok(frames)
}

/// The same on the links 2 and 3, without captures.
async fn counted(bed: &Testbed) -> Result<[u64; 2]> {
    let counts = (wire::Count::begin(bed, 2)?, wire::Count::begin(bed, 3)?);
    iperf3::measure(bed.node(2), "192.168.3.1", Load::UdpFlood(SECONDS)).await?;
    let frames = [counts.0.end().await?, counts.1.end().await?];
    tracing::info!("Without: {frames:?} frames on the two links");
    Ok(frames)
}

/// What one load came to.
struct Sample {
    /// How many frames passed the first of two links in a second, as the kernel counts at the tap.
    rate: f64,
    /// QEMU's processor time for each of them, on its way in and out again.
    microseconds: f64,
}

impl Sample {
    fn of(
        frames: [u64; 2],
        processor: Duration,
        bed: &Testbed,
        began: Option<ProcessorTime>,
    ) -> Result<Self> {
        let rates = frames.map(|frames| frames as f64 / f64::from(SECONDS));
        if rates.iter().any(|rate| *rate <= LEAST_RATE) {
            let [first, second] = rates;
            let saw = format!(
                "expected {LEAST_RATE:.0} frames a second on two links, saw {first:.0} and {second:.0}"
            );
            let meanwhile = began.zip(bed.dut(0).processor_time());
            let meanwhile = meanwhile.map(|(began, now)| now.since(&began));
            if let Some(share) = meanwhile
                .filter(ProcessorTime::is_starved)
                .map(|time| time.share())
            {
                let why = format!(
                    "{saw}, and the machine got {:.0} % of its processor time",
                    100.0 * share
                );
                return Err(bed.cannot_be_judged(why).into());
            }
            bail!("{saw}");
        }
        Ok(Self {
            rate: rates[0],
            microseconds: processor.as_secs_f64() * 1e6 / frames[0] as f64,
        })
    }
}

/// What all threads of QEMU have had until now, in user mode and in the kernel: proc_pid_stat(5).
fn processor_time(bed: &Testbed) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", bed.qemu().pid()))?;
    let (_, fields) = stat.rsplit_once(") ").context("a process has a name")?;
    let times = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks = times.sum::<std::result::Result<u64, _>>()?;
    // Linux has 100 of them in a second for whoever reads that, on all usual machines.
    Ok(Duration::from_millis(10 * ticks))
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
