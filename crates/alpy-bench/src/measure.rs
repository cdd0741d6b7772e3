// SPDX-License-Identifier: GPL-3.0-or-later
//! What is measured besides time.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};

/// The processor time that this process has used.
pub(crate) fn processor() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    let used = microseconds(usage.user_time()) + microseconds(usage.system_time());
    Ok(Duration::from_micros(u64::try_from(used)?))
}

/// The most physical memory that this process had, in KiB: `VmHWM` in proc_pid_status(5).
pub(crate) fn peak_kib() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.context("a process has a peak of memory")?;
    Ok(peak.trim().trim_end_matches(" kB").parse()?)
}

/// The value below which this part of the values is; 0.5 is the median.
pub(crate) fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * part) as usize;
    values
        .get(index.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}
