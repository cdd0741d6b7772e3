// SPDX-License-Identifier: GPL-3.0-or-later
//! One-off containers: created, started, their output read, removed.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use alpy::docker::{Container, Engine};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::figure::{note, print};
use crate::{Extent, order, peer};

const SUBJECTS: [&str; 4] = ["docker run --rm", "alpy-docker", "bare requests", "docker-py"];

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
    let count = extent.size.containers;
    for run in 0..extent.runs {
        note(&format!("docker: run {} of {}", run + 1, extent.runs));
        for index in order(SUBJECTS.len(), run) {
            let times = match index {
                0 => command_line(&image, count)?,
                1 => runtime.block_on(ours(&engine, &image, count))?,
                2 => bare(&engine.socket(), &image, count)?,
                _ => docker_py(&image, count)?,
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

async fn ours(engine: &Engine, image: &str, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        let container = Container::new(image).command(["echo", "done"]);
        let output = container.run(engine).await?.success()?;
        times.push(start.elapsed().as_secs_f64());
        check(&output.stdout_text())?;
    }
    Ok(times)
}

fn command_line(image: &str, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..count {
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
fn docker_py(image: &str, count: usize) -> Result<Vec<f64>> {
    let Some(mut command) = peer::python("one_off.py") else {
        return Ok(Vec::new());
    };
    command.args([image, &count.to_string()]);
    let result = peer::json(command)?;
    let times = result["seconds"].as_array().context("expected a list of times")?;
    Ok(times.iter().filter_map(Value::as_f64).collect())
}

/// The limit: what the engine takes for the requests that there have to be, from one that checks nothing and is ready for nothing.
fn bare(socket: &Path, image: &str, count: usize) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        let spec = json!({
            "Image": image,
            "Cmd": ["echo", "done"],
            "AttachStdout": true,
            "AttachStderr": true,
            "HostConfig": {"AutoRemove": true, "NetworkMode": "none"},
        });
        let created = body(post(
            socket,
            "/containers/create",
            "Connection: close",
            &spec.to_string(),
        )?)?;
        let created: Value = serde_json::from_str(&created).context(created)?;
        let id = created["Id"].as_str().context("a container has an id")?;
        let attach = format!("/containers/{id}/attach?stream=1&stdout=1&stderr=1");
        let attached = post(socket, &attach, "Connection: Upgrade\r\nUpgrade: tcp", "")?;
        let wait = format!("/containers/{id}/wait?condition=removed");
        let removed = post(socket, &wait, "Connection: close", "")?;
        body(post(
            socket,
            &format!("/containers/{id}/start"),
            "Connection: close",
            "",
        )?)?;
        let output = body(attached)?;
        body(removed)?;
        times.push(start.elapsed().as_secs_f64());
        // Behind the header of its frame, see `ContainerAttach` in the Docker Engine API.
        check(output.get(8..).unwrap_or_default())?;
    }
    Ok(times)
}

/// Sends a request and reads the head of its answer, which comes when the engine has begun with it.
fn post(socket: &Path, path: &str, header: &str, body: &str) -> Result<BufReader<UnixStream>> {
    let mut engine = UnixStream::connect(socket)?;
    engine.set_read_timeout(Some(Duration::from_secs(60)))?;
    let length = body.len();
    write!(
        engine,
        "POST {path} HTTP/1.1\r\nHost: engine\r\n{header}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = BufReader::new(engine);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(answer.read_line(&mut head)? > 0, "{path}: {head}");
    }
    let ok = ["HTTP/1.1 101", "HTTP/1.1 20"]
        .iter()
        .any(|status| head.starts_with(status));
    ensure!(ok, "{path}: {head}");
    Ok(answer)
}

/// What is left of an answer that ends with its connection.
fn body(mut answer: BufReader<UnixStream>) -> Result<String> {
    let mut body = String::new();
    answer.read_to_string(&mut body)?;
    Ok(body)
}
