// SPDX-License-Identifier: GPL-3.0-or-later
//! One-off containers: created, started, their output read, removed.

use std::time::Instant;

use alpy::docker::{Container, Engine};
use anyhow::{Context, Result, ensure};

use crate::figure::{note, print};
use crate::{Extent, order, peer};

/// How many containers a run has of each.
const COUNT: usize = 5;

const SUBJECTS: [&str; 3] = ["docker run --rm", "alpy-docker", "docker-py"];

/// Measures it.
pub(crate) fn measure(extent: &Extent) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let engine = runtime.block_on(Engine::connect())?;
    let image = runtime.block_on(rabbit::image(&engine, "busybox"))?;
    if peer::python("one_off.py").is_none() {
        note("docker: docker-py is not installed, its row is missing");
    }
    for run in 0..extent.runs {
        note(&format!("docker: run {} of {}", run + 1, extent.runs));
        for index in order(SUBJECTS.len(), run) {
            let times = match index {
                0 => command_line(&image)?,
                1 => runtime.block_on(ours(&engine, &image))?,
                _ => docker_py(&image)?,
            };
            for time in times {
                print("one-off container", "time, s", SUBJECTS[index], time);
            }
        }
    }
    Ok(())
}

fn check(output: &str) -> Result<()> {
    ensure!(
        output == "done\n",
        "expected the container to say done, saw {output:?}"
    );
    Ok(())
}

async fn ours(engine: &Engine, image: &str) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..COUNT {
        let start = Instant::now();
        let container = Container::new(image).command(["echo", "done"]);
        let output = container.run(engine).await?.success()?;
        times.push(start.elapsed().as_secs_f64());
        check(&output.stdout_text())?;
    }
    Ok(times)
}

fn command_line(image: &str) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..COUNT {
        let start = Instant::now();
        let mut command = peer::program("docker");
        command.args(["run", "--rm", "--network", "none", image, "echo", "done"]);
        let output = peer::output(command)?;
        times.push(start.elapsed().as_secs_f64());
        check(&output)?;
    }
    Ok(times)
}

/// Nothing if it is not installed.
fn docker_py(image: &str) -> Result<Vec<f64>> {
    let Some(mut command) = peer::python("one_off.py") else {
        return Ok(Vec::new());
    };
    command.args([image, &COUNT.to_string()]);
    let result = peer::json(command)?;
    let times = result["seconds"].as_array().context("expected a list of times")?;
    Ok(times.iter().filter_map(serde_json::Value::as_f64).collect())
}
