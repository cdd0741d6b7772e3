// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy exec`.
//!
//! The command is one of this machine, in a container that shares the node's namespaces: that works in the same way as root, with a rootless
//! engine, and for a user who is in the engine's group, where nsenter(1) would not. It ends with the node. Docker's own command starts it,
//! which knows all about terminals.

use std::env;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use alpy::RUN_LABEL;
use alpy::runs::RunInfo;
use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::args::Exec;
use crate::failure::absent;
use crate::find::{Runs, number};
use crate::programs;

/// The folders that programs of this machine are made of.
const SYSTEM: [&str; 10] = [
    "/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/sbin", "/usr", "/var/lib",
];

/// What a person at a network needs beyond Docker's usual rights: to change it, and to capture.
const CAPABILITIES: [&str; 2] = ["NET_ADMIN", "NET_RAW"];

/// The exit status of a shell that does not find a program.
const NO_PROGRAM: u8 = 127;

pub async fn run(runs: &Runs, args: &Exec) -> Result<ExitCode> {
    let run = runs.get_under_way(&args.test)?;
    let index = number("node", &args.node)?;
    if !run.links.iter().any(|link| link.node == Some(index)) {
        return Err(absent(format!("{} has no node {index}", run.name())));
    }
    let (Some(id), Some(node)) = (&run.id, run.container(&format!("node{index}"))) else {
        bail!("{} is still being made", run.name());
    };
    let client = Client::of(&run)?;
    let mut command = client.command();
    command.args(["run", "--rm", "--interactive"]);
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        command.arg("--tty");
    }
    command.args(["--network", &format!("container:{node}")]);
    command.args(["--pid", &format!("container:{node}")]);
    command.args(["--label", &format!("{RUN_LABEL}={id}")]);
    for capability in CAPABILITIES {
        command.args(["--cap-add", capability]);
    }
    match &args.image {
        Some(image) => command.arg(image),
        None => {
            let program = &args.command[0];
            if !program.contains('/') && programs::find(program).is_none() {
                eprintln!(
                    "alpy: no program {program:?} in PATH of this machine; remedy: install it, or --image IMAGE"
                );
                return Ok(ExitCode::from(NO_PROGRAM));
            }
            command.args(this_machine()?);
            command.arg(client.image_of(&node).await?)
        }
    };
    let status = command
        .args(&args.command)
        .status()
        .await
        .context(client.program)?;
    // As a shell reports it: of a signal, 128 and its number.
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    let code = code.and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The command of the engine.
struct Client {
    program: &'static str,
    host: String,
}

impl Client {
    fn of(run: &RunInfo) -> Result<Self> {
        let host = run.engine.clone().unwrap_or_default();
        match ["docker", "podman"]
            .into_iter()
            .find(|program| programs::find(program).is_some())
        {
            Some(program) => Ok(Self { program, host }),
            None => bail!("no `docker` in PATH; remedy: sudo apt-get install docker.io, or docker-cli"),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        match self.program {
            "podman" => command.args(["--url", &self.host]),
            _ => command.env("DOCKER_HOST", &self.host),
        };
        command.env_remove("DOCKER_CONTEXT");
        command
    }

    /// The image of a node has nothing but alpy's helper in it: all else in the container is what is mounted there.
    async fn image_of(&self, node: &str) -> Result<String> {
        let mut command = self.command();
        command.args(["inspect", "--type", "container", "--format", "{{.Image}}", node]);
        let output = command
            .stdin(Stdio::null())
            .output()
            .await
            .context(self.program)?;
        if !output.status.success() {
            bail!(
                "{} inspect {node}: {}",
                self.program,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// What makes a container of an empty image look like this machine.
fn this_machine() -> Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = ["--read-only", "--tmpfs", "/tmp", "--entrypoint", ""]
        .map(OsString::from)
        .to_vec();
    for folder in SYSTEM.iter().map(Path::new).filter(|folder| folder.is_dir()) {
        arguments.extend(mount(folder, ":ro"));
    }
    let here = env::current_dir().context("the working directory")?;
    let is_system = SYSTEM.iter().any(|folder| here.starts_with(folder)) || here.starts_with("/proc");
    if !is_system && here != Path::new("/") && here != Path::new("/tmp") {
        arguments.extend(mount(&here, ""));
        arguments.extend(["--workdir".into(), here.into()]);
    }
    for name in ["PATH", "TERM", "LANG"] {
        if env::var_os(name).is_some() {
            arguments.extend(["--env".into(), name.into()]);
        }
    }
    Ok(arguments)
}

fn mount(folder: &Path, mode: &str) -> [OsString; 2] {
    let mut volume = folder.as_os_str().to_owned();
    volume.push(":");
    volume.push(folder);
    volume.push(mode);
    ["--volume".into(), volume]
}
