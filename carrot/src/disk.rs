// SPDX-License-Identifier: GPL-3.0-or-later
//! What a guest does with its disks.

use alpy::Testbed;
use anyhow::{Context, Result};
use serde_json::Value;

/// How many bytes the guest has written to a disk, as QEMU has counted.
pub async fn written(bed: &Testbed, disk: usize) -> Result<u64> {
    let devices = bed.qmp().execute_raw("query-blockstats", Value::Null).await?;
    let name = format!("disk{disk}");
    let mut devices = devices.as_array().into_iter().flatten();
    let device = devices.find(|device| device["device"] == name);
    let device = device.with_context(|| format!("the machine has no {name}"))?;
    device["stats"]["wr_bytes"]
        .as_u64()
        .context("QEMU has not counted what was written")
}
