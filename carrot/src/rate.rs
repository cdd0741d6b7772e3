// SPDX-License-Identifier: GPL-3.0-or-later
//! Rates on the wire, on a busy host too.

use std::ops::RangeInclusive;
use std::time::Duration;

use alpy::pcap::{Capture, Mark, Packet};
use alpy::qemu::ProcessorTime;
use alpy::{Testbed, step};
use anyhow::{Result, bail};
use tokio::time::{Instant, interval_at};
use tracing::info;

/// Traffic is measured in stretches of this length.
pub const STRETCH: Duration = Duration::from_secs(1);

/// A rate is judged by at least so many stretches in which the machine ran.
const STRETCHES: usize = 4;
/// So many stretches are enough even if the machine starved, if a quarter of them reach the expected rate and none exceeds it.
const EDGE_STRETCHES: usize = 16;
/// The load is run at most so often.
const LOADS: usize = 6;

/// A low rate proves nothing if the host kept the machine from running for more than this part of the stretch.
const MOST_STARVED: f64 = 0.33;

/// Expects a rate of wanted packets on a link under a load, in Mbit/s with Ethernet headers. The load is repeated until machine 0 ran in
/// enough stretches, or until many stretches show the rate although the machine starved. A rate that is too high fails on a busy host too.
///
/// # Errors
/// The rate is another one; [`Testbed::cannot_be_judged`], if the machine starved in too many stretches; errors of the load.
pub async fn expect<T>(
    bed: &Testbed,
    link: usize,
    wanted: impl Fn(&Packet<'_>) -> bool,
    expected: RangeInclusive<f64>,
    load: impl AsyncFn() -> Result<T>,
) -> Result<()> {
    let (mut all, mut judged) = (Vec::new(), Vec::new());
    for _ in 0..LOADS {
        let stretches = stretches(bed, bed.capture(link), &wanted, load()).await?;
        judged.extend(
            stretches
                .iter()
                .copied()
                .filter(|stretch| stretch.starved <= MOST_STARVED),
        );
        all.extend(stretches);
        if judged.len() >= STRETCHES || judge(&all, &judged, &expected) == Verdict::Right {
            break;
        }
    }
    step!("Check rate on the wire", async {
        for Stretch {
            seconds,
            bits,
            starved,
        } in &all
        {
            let (rate, starved) = (bits / seconds / 1e6, 100.0 * starved);
            info!(
                "On the wire: {rate:.3} Mbit/s for {seconds:.1} s, the machine starved for {starved:.0} % of them"
            );
        }
        match judge(&all, &judged, &expected) {
            Verdict::Right => Ok(()),
            Verdict::Wrong(what) => bail!("on link {link}: {what}"),
            Verdict::Unjudged(why) => Err(bed.cannot_be_judged(why).into()),
        }
    })
    .await
}

/// What passed a link in a stretch of time.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    seconds: f64,
    bits: f64,
    /// The part of the time in which the host kept the machine from running.
    starved: f64,
}

/// What the stretches of a measurement say.
#[derive(Debug, PartialEq)]
enum Verdict {
    Right,
    Wrong(String),
    Unjudged(String),
}

/// Awaits the load, and measures meanwhile: whole stretches between the first and the last with traffic.
async fn stretches<T>(
    bed: &Testbed,
    capture: &Capture,
    wanted: impl Fn(&Packet<'_>) -> bool,
    load: impl Future<Output = Result<T>>,
) -> Result<Vec<Stretch>> {
    let mut load = std::pin::pin!(load);
    let mut samples = Vec::new();
    let mut looks = interval_at(Instant::now() + STRETCH, STRETCH);
    loop {
        tokio::select! {
            ended = &mut load => {
                ended?;
                break;
            }
            _ = looks.tick() => samples.push(Sample::take(bed, capture)?),
        }
    }
    let stretches = samples
        .windows(2)
        .map(|pair| pair[0].stretch_to(&pair[1], capture, &wanted));
    let stretches: Result<Vec<_>> = stretches.collect();
    // Traffic filled the first and the last stretch only in part: the containers take time to start and to end.
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
    fn take(bed: &Testbed, capture: &Capture) -> Result<Self> {
        Ok(Self {
            mark: capture.mark("stretch")?,
            at: Instant::now(),
            processor: bed.dut(0).processor_time(),
        })
    }

    fn stretch_to(
        &self,
        end: &Self,
        capture: &Capture,
        wanted: impl Fn(&Packet<'_>) -> bool,
    ) -> Result<Stretch> {
        let part = capture.since(&self.mark)?.until(&end.mark)?;
        let mut bits = 0.0;
        part.for_each(|packet| {
            if wanted(packet) {
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

/// The mean of stretches: a rate in Mbit/s, and the part of the time in which the machine did not run.
fn mean(stretches: &[Stretch]) -> (f64, f64) {
    let sum = |of: fn(&Stretch) -> f64| stretches.iter().map(of).sum::<f64>();
    let seconds = sum(|stretch| stretch.seconds).max(f64::MIN_POSITIVE);
    (
        sum(|stretch| stretch.bits) / seconds / 1e6,
        sum(|stretch| stretch.starved * stretch.seconds) / seconds,
    )
}

fn judge(all: &[Stretch], judged: &[Stretch], expected: &RangeInclusive<f64>) -> Verdict {
    let (least, most) = (expected.start(), expected.end());
    // A busy host cannot make a rate too high.
    let (rate, _) = mean(all);
    if rate > *most {
        return Verdict::Wrong(format!(
            "expected a rate of at most {most:.2} Mbit/s on the wire, measured {rate:.3} (mean of {} stretches)",
            all.len()
        ));
    }
    let count = judged.len();
    // A starved machine makes rates low and uneven. A limit still shows: many stretches reach it, and none exceeds it.
    let rates = || all.iter().map(|stretch| stretch.bits / stretch.seconds / 1e6);
    let reached = rates().filter(|rate| rate >= least).count();
    let is_edge =
        all.len() >= EDGE_STRETCHES && 4 * reached >= all.len() && rates().all(|rate| rate <= *most);
    if count < STRETCHES && is_edge {
        info!(
            "Judged: {reached} of {} stretches have {least:.2} to {most:.2} Mbit/s, and none has more",
            all.len()
        );
        return Verdict::Right;
    }
    if count < STRETCHES {
        return match all.len() {
            0 => Verdict::Wrong("expected traffic, saw none".to_owned()),
            all => Verdict::Unjudged(format!(
                "the machine ran for at least {:.0} % of the time in {count} of {all} stretches of 1 s, and {STRETCHES} are needed \
                 to judge a rate",
                100.0 * (1.0 - MOST_STARVED)
            )),
        };
    }
    // While the machine does not run, nothing passes.
    let (rate, starved) = mean(judged);
    let least = least * (1.0 - starved);
    info!("Judged: {rate:.3} Mbit/s, the mean of {count} stretches; at least {least:.2} is expected");
    if rate >= least {
        return Verdict::Right;
    }
    Verdict::Wrong(format!(
        "expected a rate of {least:.2} to {most:.2} Mbit/s on the wire, measured {rate:.3} (mean of {count} stretches, in which the \
         host kept the machine from running for {:.0} % of the time)",
        100.0 * starved
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stretches of a second, each with this rate in Mbit/s and this part of the time in which the machine did not run.
    fn judged(stretches: &[(f64, f64)]) -> Verdict {
        let all: Vec<_> = stretches
            .iter()
            .map(|(rate, starved)| Stretch {
                seconds: 1.0,
                bits: rate * 1e6,
                starved: *starved,
            })
            .collect();
        let judged: Vec<_> = all
            .iter()
            .copied()
            .filter(|stretch| stretch.starved <= MOST_STARVED)
            .collect();
        judge(&all, &judged, &(0.9..=1.02))
    }

    #[test]
    fn a_rate_is_judged_by_the_time_in_which_the_machine_ran() {
        assert_eq!(judged(&[(0.95, 0.0); 4]), Verdict::Right);
        assert_eq!(
            judged(&[(0.95, 0.0), (0.2, 0.9), (0.95, 0.1), (0.95, 0.0), (0.7, 0.3)]),
            Verdict::Right
        );
        assert_eq!(
            judged(&[(0.8, 0.0), (0.8, 0.04), (0.8, 0.0), (0.8, 0.0)]),
            Verdict::Wrong(
                "expected a rate of 0.89 to 1.02 Mbit/s on the wire, measured 0.800 (mean of 4 stretches, in which the host kept \
                 the machine from running for 1 % of the time)"
                    .to_owned()
            )
        );
    }

    #[test]
    fn a_rate_that_is_too_low_on_a_busy_host_is_not_judged_and_one_that_is_too_high_is() {
        assert_eq!(
            judged(&[(0.1, 0.9); 6]),
            Verdict::Unjudged(
                "the machine ran for at least 67 % of the time in 0 of 6 stretches of 1 s, and 4 are needed to judge a rate"
                    .to_owned()
            )
        );
        // A limit of 2 Mbit/s, while the machine runs for half of the time.
        let twice = [(1.4, 0.4), (1.0, 0.5), (0.6, 0.7)].repeat(6);
        assert!(matches!(judged(&twice), Verdict::Unjudged(_)));
        // One of 0.7 Mbit/s.
        let low = [(0.7, 0.4), (0.6, 0.7)].repeat(9);
        assert!(matches!(judged(&low), Verdict::Unjudged(_)));
        let edge = [(1.0, 0.5), (0.5, 0.8), (0.95, 0.7), (0.7, 0.5)].repeat(4);
        assert_eq!(judged(&edge), Verdict::Right);
        assert!(matches!(judged(&edge[1..]), Verdict::Unjudged(_)));
        assert_eq!(
            judged(&[(1.3, 0.9); 6]),
            Verdict::Wrong(
                "expected a rate of at most 1.02 Mbit/s on the wire, measured 1.300 (mean of 6 stretches)"
                    .to_owned()
            )
        );
        assert_eq!(
            judged(&[]),
            Verdict::Wrong("expected traffic, saw none".to_owned())
        );
    }
}
