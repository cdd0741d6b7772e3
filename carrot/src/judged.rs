// SPDX-License-Identifier: GPL-3.0-or-later
//! Measurements that a busy host can spoil.

use std::time::Duration;

use alpy::qemu::ProcessorTime;
use alpy::{Dut, Testbed};
use anyhow::{Result, bail};
use tokio::time::Instant;
use tracing::info;

/// Measurements are repeated for this long.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs a measurement that a busy host can spoil, such as a delay or a share. `measure` returns `None` if the result is right, else a text that
/// says what was expected and seen. If a machine was [starved](ProcessorTime::is_starved) during the measurement, this function repeats it,
/// for 30 s at most.
///
/// `measure` returns an error for a result that a busy host cannot explain.
///
/// # Errors
/// The text, if no machine was starved; [`Testbed::cannot_be_judged`], if one was starved each time; errors of `measure`.
///
/// Cancel safe as `measure` is.
pub async fn judged(bed: &Testbed, mut measure: impl AsyncFnMut() -> Result<Option<String>>) -> Result<()> {
    let times = || bed.duts().iter().map(Dut::processor_time);
    let began = Instant::now();
    loop {
        let before: Vec<_> = times().collect();
        let Some(saw) = measure().await? else {
            return Ok(());
        };
        let since =
            |(now, before): (Option<ProcessorTime>, &Option<ProcessorTime>)| Some(now?.since(&(*before)?));
        let meanwhile = times().zip(&before).map(since).enumerate();
        let starved =
            meanwhile.filter_map(|(machine, time)| Some((machine, time.filter(ProcessorTime::is_starved)?)));
        let Some((machine, time)) =
            starved.min_by(|(_, one), (_, other)| one.share().total_cmp(&other.share()))
        else {
            bail!("{saw}");
        };
        let why = format!(
            "{saw}, while the host gave machine {machine} {:.0} % of the processor time it was ready to use",
            100.0 * time.share()
        );
        if began.elapsed() >= LIMIT {
            return Err(bed.cannot_be_judged(why).into());
        }
        info!("Measure again: {why}");
    }
}
