// SPDX-License-Identifier: GPL-3.0-or-later
//! Measurements that a busy host spoils.

use std::time::Duration;

use alpy::qemu::ProcessorTime;
use alpy::{Dut, Testbed};
use anyhow::{Result, bail};
use tokio::time::Instant;
use tracing::info;

/// No measurement begins later than this after the first one.
const LIMIT: Duration = Duration::from_secs(30);

/// Measures what takes longer, or comes to less, while the host keeps a machine from running. `measure` returns `None` if all is right, else
/// what was expected and seen. If a machine was [starved](ProcessorTime::is_starved) meanwhile, it is measured again, for 30 s.
///
/// What a busy host does not explain is an error of `measure`.
///
/// # Errors
/// What was expected and seen while no machine was starved; [`Testbed::cannot_be_judged`]; those of `measure`.
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
