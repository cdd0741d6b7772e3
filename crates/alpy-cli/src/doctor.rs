// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy doctor`.

use std::env;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use alpy::docker::{self, Engine};
use alpy::qemu::{Accelerator, Firmware, Machine};
use anyhow::Result;
use serde::Serialize;
use tokio::process::Command;

use crate::output::{Colour, Output, progress};
use crate::programs;

/// What was found of one thing.
#[derive(Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Good,
    /// Some tests need it, or are slower without it.
    Optional,
    /// No test can run without it.
    Missing,
}

/// What a check finds: that all is well, or what is not and the remedy.
type Found = std::result::Result<String, (String, String)>;

pub async fn run(output: &Output) -> Result<ExitCode> {
    let engine = progress("ask the engine", Engine::connect()).await;
    let rootless = engine.as_ref().is_ok_and(|engine| engine.info().rootless);
    let emulator = emulator().await;
    let accelerator = match &emulator {
        Ok(_) => accelerator().await,
        Err(_) => Err((
            "not tried without QEMU".to_owned(),
            "install QEMU first".to_owned(),
        )),
    };
    let shared = match &engine {
        Ok(engine) => progress("ask for shared folders", shared(engine)).await,
        Err(_) => Err((
            "not tried without an engine".to_owned(),
            "start an engine first".to_owned(),
        )),
    };
    let engine = engine
        .map(|engine| engine_words(&engine))
        .map_err(|error| no_engine(&error));
    let findings = [
        required("QEMU", emulator),
        optional("accelerator", accelerator),
        required("container engine", engine),
        required("shared folders", shared),
        required("/dev/net/tun", tun(rootless)),
        optional(
            "docker command",
            program("docker", "docker.io (or docker-cli), for `alpy exec`"),
        ),
        optional(
            "qemu-img",
            program("qemu-img", "qemu-utils, for disk images with a backing file"),
        ),
        optional("UEFI firmware", firmware(Firmware::uefi())),
        optional("secure boot firmware", firmware(Firmware::secure_boot())),
        optional("swtpm", program("swtpm", "swtpm, for machines with a TPM")),
        optional("netem", module("sch_netem", "delay, loss and the like on links")),
        optional("ifb", module("ifb", "impairments of what a node receives")),
        optional("memory", memory()),
    ];
    output.show(&findings, || {
        findings.iter().map(|finding| line(finding, output)).collect()
    })?;
    let missing = findings.iter().any(|finding| finding.state == State::Missing);
    Ok(if missing {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn required(what: &'static str, found: Found) -> Finding {
    finding(what, State::Missing, found)
}

fn optional(what: &'static str, found: Found) -> Finding {
    finding(what, State::Optional, found)
}

fn finding(what: &'static str, otherwise: State, found: Found) -> Finding {
    match found {
        Ok(found) => Finding {
            what,
            state: State::Good,
            found,
            remedy: None,
        },
        Err((found, remedy)) => Finding {
            what,
            state: otherwise,
            found,
            remedy: Some(remedy),
        },
    }
}

fn line(finding: &Finding, output: &Output) -> String {
    let (mark, colour) = match finding.state {
        State::Good => ("ok", Colour::Good),
        State::Optional => ("optional", Colour::Weak),
        State::Missing => ("MISSING", Colour::Bad),
    };
    // The colour's own characters have no width.
    let padding = " ".repeat(8 - mark.len());
    let mark = output.colour(colour, mark);
    let remedy = finding
        .remedy
        .as_ref()
        .map(|remedy| format!("; remedy: {remedy}"));
    let Finding { what, found, .. } = finding;
    format!(
        "{mark}{padding}  {what:20}  {found}{}\n",
        remedy.unwrap_or_default()
    )
}

async fn emulator() -> Found {
    let name = Machine::new().program_path().to_owned();
    let Some(path) = programs::find(&name) else {
        return Err((
            format!("no {} in PATH", name.display()),
            "sudo apt-get install qemu-system-x86".to_owned(),
        ));
    };
    let mut command = Command::new(&path);
    let output = command.arg("--version").stdin(Stdio::null()).output().await;
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match text.as_deref().ok().and_then(|text| text.lines().next()) {
        Some(version) => Ok(version.to_owned()),
        None => Err((
            format!("{} does not tell its version", path.display()),
            "sudo apt-get install --reinstall qemu-system-x86".to_owned(),
        )),
    }
}

async fn accelerator() -> Found {
    let machine = Machine::new();
    let chosen = progress("try the accelerator", Accelerator::detect(machine.program_path())).await;
    match chosen {
        Ok(accelerator) if accelerator.name() == "kvm" => Ok(format!("KVM: {}", accelerator.reason())),
        Ok(accelerator) => Err((
            format!(
                "{}, some ten times slower than KVM: {}",
                accelerator.name().to_uppercase(),
                accelerator.reason()
            ),
            match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
                Ok(_) => "nested virtualisation of the host, if this is a virtual machine".to_owned(),
                Err(_) if Path::new("/dev/kvm").exists() => {
                    "sudo usermod --append --groups kvm $USER, and log in anew".to_owned()
                }
                Err(_) => {
                    "virtualisation in the firmware's settings; in a virtual machine, nested virtualisation"
                        .to_owned()
                }
            },
        )),
        Err(error) => Err((
            format!("{:#}", anyhow::Error::from(error)),
            "see the error".to_owned(),
        )),
    }
}

/// The engine has to see the files of this process: the folder of sources and evidence, and that of temporary files.
async fn shared(engine: &Engine) -> Found {
    let mut folders = vec![env::temp_dir()];
    folders.extend(env::current_dir());
    folders.extend(
        env::var_os("ALPY_EVIDENCE")
            .map(PathBuf::from)
            .filter(|folder| folder.is_dir()),
    );
    for folder in &folders {
        // What is there for one of them need not be there for the other, though it has the same name.
        let probe = tempfile::tempdir_in(folder);
        let folder = probe.as_ref().map_or(folder.as_path(), tempfile::TempDir::path);
        engine.check_shares(folder).await.map_err(|error| split(&error))?;
    }
    let names: Vec<String> = folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect();
    Ok(names.join(", "))
}

/// What an error found, and its remedy.
fn split(error: &docker::Error) -> (String, String) {
    let text = error.to_string();
    match text.split_once("; remedy: ") {
        Some((found, remedy)) => (found.to_owned(), remedy.to_owned()),
        None => (text, "see the error".to_owned()),
    }
}

/// What is wrong with the engine, and the remedy.
fn no_engine(error: &docker::Error) -> (String, String) {
    const INSTALL: &str = "sudo apt-get install docker.io, and become one of the group `docker`; or a rootless engine; or \
                           DOCKER_HOST, should there be one elsewhere";
    let (found, remedy) = split(error);
    match error {
        docker::Error::NoEngine(why) if !why.is_choice() => (found, INSTALL.to_owned()),
        _ => (found, remedy),
    }
}

fn engine_words(engine: &Engine) -> String {
    let info = engine.info();
    format!(
        "{}{} {} at {}, found by {}",
        if info.rootless { "rootless " } else { "" },
        if info.podman { "Podman" } else { "Docker" },
        info.version,
        info.address,
        info.found_by
    )
}

/// Nodes and helpers open it, as root of their container: with a rootless engine that is this user.
fn tun(rootless: bool) -> Found {
    const TUN: &str = "/dev/net/tun";
    let Ok(metadata) = fs::metadata(TUN) else {
        return Err((format!("no {TUN}"), "sudo modprobe tun".to_owned()));
    };
    let mode = metadata.permissions().mode() & 0o777;
    if rootless && mode & 0o006 != 0o006 {
        return Err((
            format!("its mode is {mode:o}, and a rootless engine needs 666"),
            format!("sudo chmod 0666 {TUN}, which udev does where it runs"),
        ));
    }
    Ok(format!("mode {mode:o}"))
}

fn program(name: &str, package: &str) -> Found {
    match programs::find(name) {
        Some(path) => Ok(path.display().to_string()),
        None => Err((
            format!("no {name} in PATH"),
            format!("sudo apt-get install {package}"),
        )),
    }
}

fn firmware(found: alpy::qemu::Result<Firmware>) -> Found {
    match found {
        Ok(Firmware::Uefi { code, .. } | Firmware::SecureBoot { code, .. }) => Ok(code.display().to_string()),
        Ok(_) => Ok("there".to_owned()),
        Err(error) => Err((error.to_string(), "sudo apt-get install ovmf".to_owned())),
    }
}

/// A module of the kernel that the containers run on, which is this one unless the engine is elsewhere.
fn module(name: &str, what: &str) -> Found {
    let release = nix::sys::utsname::uname().map(|names| names.release().to_string_lossy().into_owned());
    let modules = PathBuf::from("/lib/modules").join(release.unwrap_or_default());
    let file = format!("/{name}.ko");
    let listed = |list: &str| fs::read_to_string(modules.join(list)).is_ok_and(|text| text.contains(&file));
    let loaded = Path::new("/sys/module").join(name).exists();
    if loaded || listed("modules.builtin") || listed("modules.dep") {
        return Ok(if loaded { "loaded" } else { "there" }.to_owned());
    }
    Err((
        format!("this kernel has no {name}: no {what}"),
        "the package linux-modules-extra of this kernel, or another kernel".to_owned(),
    ))
}

fn memory() -> Found {
    const ENOUGH: u64 = 2 << 10;
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    match kib.map(|kib| kib >> 10) {
        Some(mib @ ENOUGH..) => Ok(format!("{mib} MiB available")),
        Some(mib) => Err((
            format!("{mib} MiB available, and a machine of alpy's has 512 MiB if it does not say otherwise"),
            "smaller machines, Machine::memory_mib, or fewer tests at once".to_owned(),
        )),
        None => Err(("not known".to_owned(), "none".to_owned())),
    }
}
