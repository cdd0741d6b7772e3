// SPDX-License-Identifier: GPL-3.0-or-later
//! `cargo xtask test`.
use anyhow::Result;
use std::process::ExitCode;
/// Tests.
pub fn main(_arguments: Vec<String>) -> Result<ExitCode> {
    anyhow::bail!("soon")
}
