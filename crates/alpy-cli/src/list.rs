// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy ps`.

use std::process::ExitCode;
use std::time::SystemTime;

use alpy::control::{Control, Status};
use alpy::runs::{RunInfo, RunState};
use anyhow::Result;
use serde_json::Value;

use crate::args::Ps;
use crate::find::Runs;
use crate::output::{Colour, Output, progress, table, time};

/// A line of the list.
struct Row {
    name: String,
    run: RunInfo,
    status: Status,
}

impl Row {
    /// How it stands, in one word for people and programs.
    fn state(&self) -> &'static str {
        match (self.run.state, &self.status.held) {
            (RunState::UnderWay, Some(_)) => "held",
            (RunState::UnderWay, None) => "under-way",
            (RunState::Passed, _) => "passed",
            (RunState::Failed, _) => "failed",
            _ => "killed",
        }
    }

    fn json(&self) -> serde_json::Result<Value> {
        let mut row = serde_json::to_value(&self.run)?;
        row["name"] = self.name.as_str().into();
        row["state"] = self.state().into();
        row["step"] = self.status.step.clone().into();
        row["held"] = self.status.held.clone().into();
        Ok(row)
    }
}

pub async fn run(runs: &Runs, args: &Ps, output: &Output) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for run in runs.all() {
        let under_way = run.state == RunState::UnderWay;
        if under_way || args.all {
            // One that is still being made does not answer, and has no step to tell.
            let status = match under_way {
                true => progress("ask the testbeds", Control::of(&run).status())
                    .await
                    .unwrap_or_default(),
                false => Status::default(),
            };
            rows.push(Row {
                name: run.name(),
                run,
                status,
            });
        }
    }
    let json = rows.iter().map(Row::json).collect::<Result<Vec<_>, _>>()?;
    output.show(&json, || text(&rows, output))?;
    Ok(ExitCode::SUCCESS)
}

fn text(rows: &[Row], output: &Output) -> String {
    if rows.is_empty() {
        return "no testbed is under way\n".to_owned();
    }
    let mut lines = vec![
        ["TEST", "STATE", "SINCE", "WHAT", "EVIDENCE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        let Row { name, run, status } = row;
        let since = SystemTime::now().duration_since(run.began).unwrap_or_default();
        let what = [&status.held, &status.step, &run.failure];
        let what = what.into_iter().flatten().next().cloned().unwrap_or_default();
        lines.push(vec![
            name.clone(),
            row.state().to_owned(),
            time(since),
            short(&what),
            run.dir.display().to_string(),
        ]);
    }
    let text = table(&lines);
    let paint = |line: &str| match rows.len() {
        _ if line.contains("  failed  ") || line.contains("  killed  ") => output.colour(Colour::Bad, line),
        _ if line.contains("  held  ") => output.colour(Colour::Weak, line),
        _ => line.to_owned(),
    };
    text.lines().map(|line| format!("{}\n", paint(line))).collect()
}

/// The beginning of the first line.
fn short(text: &str) -> String {
    const MOST: usize = 60;
    let line = text.lines().next().unwrap_or_default();
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}
