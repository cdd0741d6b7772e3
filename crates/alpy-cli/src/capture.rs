// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy capture`.

use std::io::IsTerminal;
use std::process::ExitCode;

use alpy::pcap;
use alpy::runs::{RunInfo, RunState};
use anyhow::Result;

use crate::args::Capture;
use crate::failure::{absent, usage};
use crate::files;
use crate::find::{Runs, no_link, number};

/// The captures of all links, which a run writes at its end.
const ALL: &str = "links.pcapng";

pub async fn run(runs: &Runs, args: &Capture) -> Result<ExitCode> {
    if std::io::stdout().is_terminal() {
        let Capture { test, link } = args;
        return Err(usage(format!(
            "a capture is no text; read it with: alpy capture {test} {link} | tcpdump -nr-, or | wireshark -ki-"
        )));
    }
    let run = runs.get(&args.test)?;
    let mut stdout = tokio::io::stdout();
    if args.link == "all" {
        copy_all(&run, &mut stdout).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let index = number("link", &args.link)?;
    let Some(link) = run.links.get(index) else {
        return Err(no_link(&run, index));
    };
    if !link.capture.exists() {
        return Err(absent(format!(
            "link {index} has no capture: it was made without, or its machine has not been started yet"
        )));
    }
    let ended = async {
        if run.state == RunState::UnderWay {
            let _ = run.ended().await;
        }
    };
    let capture = pcap::Capture::open(&link.capture)?;
    capture.stream_until(&mut stdout, ended).await?;
    Ok(ExitCode::SUCCESS)
}

async fn copy_all(run: &RunInfo, stdout: &mut tokio::io::Stdout) -> Result<()> {
    if run.state == RunState::UnderWay {
        return Err(usage(
            "all links are in one file when the run has ended; until then, one link at a time",
        ));
    }
    let mut file = tokio::fs::File::from_std(files::open(&run.dir.join(ALL))?);
    match tokio::io::copy(&mut file, stdout).await {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
