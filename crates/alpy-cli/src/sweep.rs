// SPDX-License-Identifier: GPL-3.0-or-later
//! `alpy sweep`.
//!
//! A run leaves nothing, however it ends. Should it have left something all the same, because its guardian was killed too or the machine lost
//! its power, this removes it: containers that have alpy's label, and folders among the evidence.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use alpy::RUN_LABEL;
use alpy::docker::{ContainerInfo, Engine};
use alpy::runs::RunState;
use anyhow::{Result, bail};
use serde::Serialize;

use crate::args::Sweep;
use crate::find::Runs;
use crate::output::{Output, progress};

/// What was found, and removed unless it was only looked for.
#[derive(Serialize)]
struct Found {
    removed: bool,
    containers: Vec<String>,
    folders: Vec<PathBuf>,
}

pub async fn run(runs: &Runs, args: &Sweep, output: &Output) -> Result<ExitCode> {
    let engine = progress("find the engine", Engine::connect()).await?;
    let all = progress("list the containers", engine.containers(RUN_LABEL)).await?;
    let left = left_over(all, is_alive);
    let folders = folders(runs);
    let mut found = Found {
        removed: !args.dry_run,
        containers: left.iter().map(|container| container.name.clone()).collect(),
        folders,
    };
    let mut failed = Vec::new();
    if found.removed {
        let remove = async {
            let mut removed = Vec::new();
            for container in &left {
                match engine.remove(&container.id).await {
                    Ok(()) => removed.push(container.name.clone()),
                    Err(error) => failed.push(format!("{:#}", anyhow::Error::from(error))),
                }
            }
            removed
        };
        found.containers = progress("remove containers", remove).await;
        found.folders.retain(|folder| match fs::remove_dir_all(folder) {
            Ok(()) => true,
            Err(error) => {
                failed.push(format!("remove {}: {error}", folder.display()));
                false
            }
        });
    }
    output.show(&found, || text(&found))?;
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(found: &Found) -> String {
    let verb = if found.removed { "removed" } else { "would remove" };
    let containers = found
        .containers
        .iter()
        .map(|name| format!("{verb} container {name}\n"));
    let folders = found
        .folders
        .iter()
        .map(|folder| format!("{verb} {}\n", folder.display()));
    let text: String = containers.chain(folders).collect();
    match text.is_empty() {
        true => "nothing is left of any run\n".to_owned(),
        false => text,
    }
}

/// The containers of runs that are over, among those whose label has the form of alpy's. A run with a node that runs is not over: a node ends
/// with its test. Where that is not to be seen, its process is asked for.
fn left_over(all: Vec<ContainerInfo>, is_alive: impl Fn(&ContainerInfo) -> bool) -> Vec<ContainerInfo> {
    let mut runs: BTreeMap<String, Vec<ContainerInfo>> = BTreeMap::new();
    for container in all {
        if pid(&container).is_some() {
            runs.entry(container.labels[RUN_LABEL].clone())
                .or_default()
                .push(container);
        }
    }
    let is_node = |container: &ContainerInfo| {
        let (_, name) = container.name.rsplit_once('-').unwrap_or_default();
        let number = name.strip_prefix("node");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    runs.retain(|_, containers| {
        let node = containers
            .iter()
            .any(|container| container.running && is_node(container));
        !node && !containers.iter().any(&is_alive)
    });
    runs.into_values().flatten().collect()
}

/// Whether the process that has asked for a container is there yet. Its id begins the run's, and may be another's by now: one that has begun
/// after the container.
fn is_alive(container: &ContainerInfo) -> bool {
    let Some(pid) = pid(container) else {
        return true;
    };
    // Nothing is removed on a guess.
    Path::new(&format!("/proc/{pid}")).is_dir()
        && began(pid).is_none_or(|began| began <= container.created + 1)
}

/// The process in the id of a container's run: `PID-NUMBER-RANDOM`.
fn pid(container: &ContainerInfo) -> Option<u32> {
    let mut parts = container.labels.get(RUN_LABEL)?.split('-');
    let (pid, number, random) = (parts.next()?, parts.next()?, parts.next()?);
    let is_id = parts.next().is_none() && number.parse::<u32>().is_ok() && random.len() == 8;
    pid.parse().ok().filter(|_| is_id)
}

/// When a process began, in seconds since 1970: proc_pid_stat(5) has it in clock ticks since the machine began.
fn began(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let machine = fs::read_to_string("/proc/stat").ok()?;
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime "))?;
    let booted: u64 = booted.trim().parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Some(booted + ticks / u64::try_from(per_second).ok()?)
}

/// The folders of runs among the evidence that are no more.
fn folders(runs: &Runs) -> Vec<PathBuf> {
    let over = alpy::runs::below(runs.base());
    let over = over.into_iter().filter(|run| run.state != RunState::UnderWay);
    let folders = over.filter_map(|run| Some(run.dir.join(format!("alpy-{}", run.id?))));
    // A symbolic link leads elsewhere.
    let is_folder = |folder: &PathBuf| fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir());
    folders.filter(is_folder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, run: &str, running: bool) -> ContainerInfo {
        let list = serde_json::json!({
            "Id": name,
            "Names": [format!("/alpy-nat-{run}-{name}")],
            "Labels": {RUN_LABEL: run},
            "State": if running { "running" } else { "created" },
            "Created": 1_700_000_000,
        });
        ContainerInfo::new(&list).unwrap()
    }

    fn names(left: &[ContainerInfo]) -> Vec<&str> {
        left.iter().map(|container| container.id.as_str()).collect()
    }

    #[test]
    fn what_belongs_to_a_run_with_a_node_or_a_process_is_not_left_over() {
        let all = vec![
            container("node0", "1-0-aaaaaaaa", true),
            container("create-taps", "1-0-aaaaaaaa", false),
            container("dhcp", "2-0-bbbbbbbb", true),
            container("node1", "2-0-bbbbbbbb", false),
            container("http", "3-0-cccccccc", true),
        ];
        let alive = |container: &ContainerInfo| container.labels[RUN_LABEL].starts_with("3-");
        assert_eq!(names(&left_over(all, alive)), ["dhcp", "node1"]);
    }

    #[test]
    fn a_process_is_that_of_a_container_only_if_it_began_before() {
        let own = std::process::id();
        let mut container = container("node0", &format!("{own}-0-aaaaaaaa"), true);
        assert!(!is_alive(&container), "this process did not run in 2023");
        container.created = began(own).unwrap();
        assert!(is_alive(&container));
    }

    #[test]
    fn a_folder_is_that_of_a_run_or_is_not_removed() {
        let base = tempfile::tempdir().unwrap();
        let victim = base.path().join("victim");
        fs::create_dir_all(&victim).unwrap();
        let run = |name: &str, id: &str| {
            let dir = base.path().join("evidence").join(name);
            fs::create_dir_all(&dir).unwrap();
            let record = serde_json::json!({"format": 1, "test": name, "id": id});
            fs::write(dir.join("run.json"), record.to_string()).unwrap();
            dir
        };
        let own = run("own", "1-0-aaaaaaaa").join("alpy-1-0-aaaaaaaa");
        fs::create_dir(&own).unwrap();
        // With the first component there, the path leads to the victim.
        fs::create_dir(run("above", "a/../../../victim").join("alpy-a")).unwrap();
        run("elsewhere", victim.to_str().unwrap());
        let link = run("link", "2-0-bbbbbbbb").join("alpy-2-0-bbbbbbbb");
        std::os::unix::fs::symlink(&victim, link).unwrap();
        let runs = Runs::below(Some(base.path().join("evidence")));
        assert_eq!(folders(&runs), [own]);
    }

    #[test]
    fn a_label_of_another_form_is_not_alpys_to_sweep() {
        let all = vec![
            container("node0", "mine", false),
            container("node1", "1-0-x", false),
        ];
        assert_eq!(names(&left_over(all, |_| false)), [""; 0]);
    }
}
