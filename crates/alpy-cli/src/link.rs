// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy link`.

use std::process::ExitCode;

use alpy::control::Control;
use anyhow::Result;
use serde_json::json;

use crate::args::{Action, Link};
use crate::find::{Runs, no_link, number};
use crate::output::{Output, progress};

pub async fn run(runs: &Runs, args: &Link, output: &Output) -> Result<ExitCode> {
    let link = number("link", &args.link)?;
    let run = runs.get_under_way(&args.test)?;
    if link >= run.links.len() {
        return Err(no_link(&run, link));
    }
    let control = Control::of(&run);
    match args.action {
        Action::Down => progress("pull the cable", control.unplug(link)).await?,
        Action::Up => progress("plug the cable", control.plug(link)).await?,
    }
    let up = args.action == Action::Up;
    let done = json!({"test": run.name(), "link": link, "up": up});
    output.show(&done, || {
        let done = if up { "plugged in" } else { "pulled out" };
        format!(
            "{}: the cable of link {link} is {done} at both ends\n",
            run.name()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
