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
    fn state(&self) -> String {
        match self.status.held {
            Some(_) => "held".to_owned(),
            None => self.run.state.to_string(),
        }
    }

    fn colour(&self) -> Option<Colour> {
        match self.run.state {
            RunState::Failed | RunState::Killed => Some(Colour::Bad),
            _ => self.status.held.as_ref().map(|_| Colour::Weak),
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
            row.state(),
            time(since),
            short(&what),
            run.dir.display().to_string(),
        ]);
    }
    let text = table(&lines);
    let colours = std::iter::once(None).chain(rows.iter().map(Row::colour));
    let paint = |(line, colour): (&str, Option<Colour>)| match colour {
        Some(colour) => format!("{}\n", output.colour(colour, line)),
        None => format!("{line}\n"),
    };
    text.lines().zip(colours).map(paint).collect()
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
