// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy report`.

use std::path::PathBuf;
use std::process::ExitCode;

use alpy::runs::RunState;
use anyhow::{Result, bail};
use serde::Serialize;

use crate::args::Report;
use crate::failure::absent;
use crate::find::Runs;
use crate::output::{Output, table};

/// A report.
#[derive(Serialize)]
struct Row {
    name: String,
    state: RunState,
    report: PathBuf,
}

pub fn run(runs: &Runs, args: &Report, output: &Output) -> Result<ExitCode> {
    let chosen = match &args.test {
        Some(test) => vec![runs.get(test)?],
        None => runs.all(),
    };
    if chosen.is_empty() {
        return Err(absent(format!("no run below {}", runs.base().display())));
    }
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for run in chosen {
        let report = match alpy::report::render(&run.dir) {
            Ok(report) => report,
            Err(error) => {
                failed.push(format!("{:#}", anyhow::Error::from(error)));
                continue;
            }
        };
        let report = report.canonicalize().unwrap_or(report);
        rows.push(Row {
            name: run.name(),
            state: run.state,
            report,
        });
    }
    output.show(&rows, || {
        let cells = |row: &Row| {
            vec![
                row.name.clone(),
                row.state.to_string(),
                format!("file://{}", row.report.display()),
            ]
        };
        table(&rows.iter().map(cells).collect::<Vec<_>>())
    })?;
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}
