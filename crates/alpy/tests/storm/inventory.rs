// SPDX-License-Identifier: GPL-3.0-or-later
//! What there is on this machine and in the engine that a test could have left. It asks the kernel and the engine itself, not
//! alpy.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::ask;

/// What belongs to the tests that are looked at, by name and by place.
pub(crate) struct Scope {
    name: String,
    evidence: PathBuf,
    /// The engine's socket, the folder that it is in, and the engine's data.
    socket: PathBuf,
    runtime: Option<PathBuf>,
    data: PathBuf,
}

impl Scope {
    pub(crate) fn of_this_process() -> Self {
        let name = format!("storm-{}", std::process::id());
        let base = env::var_os("ALPY_EVIDENCE")
            .map_or_else(|| alpy::evidence::target_dir().join("alpy"), PathBuf::from);
        let socket = alpy_need::engine_socket().unwrap();
        let runtime = socket.parent().map(Path::to_owned);
        let mut scope = Self {
            evidence: base.join(&name),
            name,
            // A folder that is the engine's alone.
            runtime: runtime.filter(|folder| !folder.ends_with("run")),
            socket,
            data: PathBuf::new(),
        };
        scope.data = PathBuf::from(scope.ask("/info")["DockerRootDir"].as_str().unwrap());
        scope
    }

    /// The name of the testbed of a round.
    pub(crate) fn test_of(&self, round: u32) -> String {
        format!("{}-{round}", self.name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the evidence of the tests goes.
    pub(crate) fn evidence(&self) -> &Path {
        &self.evidence
    }

    pub(crate) fn remove_evidence(&self) {
        let _ = fs::remove_dir_all(&self.evidence);
    }

    /// What a private engine has written about the containers in these lines, if it is one: its log lies beside its data.
    pub(crate) fn engine_log(&self, things: &[String]) -> Vec<String> {
        let log = fs::read_to_string(self.data.with_file_name("engine.log")).unwrap_or_default();
        let is_id = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let ids: BTreeSet<&str> = things
            .iter()
            .flat_map(|thing| thing.split([' ', '/', '"']).filter(is_id))
            .collect();
        let of_them = |line: &&str| ids.iter().any(|id| line.contains(id));
        log.lines().filter(of_them).map(str::to_owned).collect()
    }

    fn ask(&self, path: &str) -> Value {
        ask(&self.socket, path)
    }

    /// Whether a text names something of the tests or of the engine.
    fn has(&self, text: &str) -> bool {
        let contains = |path: &Path| text.contains(&*path.to_string_lossy());
        text.contains(&self.name) || contains(&self.data) || self.runtime.as_deref().is_some_and(contains)
    }
}

/// Things, each a line that begins with its kind.
pub(crate) struct Inventory(BTreeSet<String>);

impl Inventory {
    pub(crate) fn take(scope: &Scope) -> Self {
        let mut things = BTreeSet::new();
        containers(scope, &mut things);
        images(scope, &mut things);
        processes(scope, &mut things);
        interfaces(&mut things);
        namespaces(&mut things);
        mounts(scope, &mut things);
        sockets(scope, &mut things);
        folders(scope, &mut things);
        Self(things)
    }

    /// What is here and was not there.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }

    pub(crate) fn has_any_of(&self, things: &[String]) -> bool {
        things.iter().any(|thing| self.0.contains(thing))
    }
}

fn containers(scope: &Scope, things: &mut BTreeSet<String>) {
    for container in scope.ask("/containers/json?all=1").as_array().unwrap() {
        let (names, labels) = (container["Names"].to_string(), container["Labels"].to_string());
        if names.contains(&scope.name) || labels.contains(&scope.name) {
            things.insert(format!(
                "container {names} {} {}",
                container["State"], container["Id"]
            ));
        }
    }
}

/// Those without a name: what a build that broke off leaves.
fn images(scope: &Scope, things: &mut BTreeSet<String>) {
    for image in scope.ask("/images/json?all=1").as_array().unwrap() {
        let tags = image["RepoTags"].to_string();
        if tags == "null" || tags == "[]" || tags.contains("<none>") || tags.contains(&scope.name) {
            things.insert(format!("image {} {tags}", image["Id"]));
        }
    }
}

/// By what they are called with, by a mark in their environment, and by the place of their root.
fn processes(scope: &Scope, things: &mut BTreeSet<String>) {
    let own = std::process::id();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let read = |file: &str| {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let arguments = read("cmdline");
        let shim = arguments.contains("containerd-shim") && scope.has(&arguments);
        let mark = format!("ALPY_STORM_CHILD={}", scope.name);
        let named = arguments.contains(&scope.name) || read("environ").contains(&mark);
        let root = read("mountinfo").lines().any(|mount| {
            mount.split(' ').nth(4) == Some("/") && mount.contains(&*scope.data.to_string_lossy())
        });
        // A zombie of the storm's own is one that it has not waited for yet.
        if pid != own && (shim || named || root) {
            things.insert(format!("process {pid} {}", arguments.trim_end()));
        }
    }
}

fn interfaces(things: &mut BTreeSet<String>) {
    list(Path::new("/sys/class/net"), "interface", things);
}

fn namespaces(things: &mut BTreeSet<String>) {
    list(Path::new("/run/netns"), "namespace", things);
}

fn list(folder: &Path, kind: &str, things: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        things.insert(format!("{kind} {}", entry.file_name().to_string_lossy()));
    }
}

fn mounts(scope: &Scope, things: &mut BTreeSet<String>) {
    for mount in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        if scope.has(mount) {
            let point = mount.split(' ').nth(4).unwrap_or_default();
            things.insert(format!("mount {point}"));
        }
    }
}

/// Those that somebody listens on, and files that are left of one.
fn sockets(scope: &Scope, things: &mut BTreeSet<String>) {
    for socket in fs::read_to_string("/proc/net/unix").unwrap().lines() {
        let path = socket.split_whitespace().nth(7).unwrap_or_default();
        if path.contains(&scope.name) {
            things.insert(format!("socket {path}"));
        }
    }
    walk(&scope.evidence, &mut |path, kind| {
        if kind.is_socket() || kind.is_fifo() {
            things.insert(format!("socket {}", path.display()));
        }
    });
}

/// Folders that are not evidence, there and among temporary files.
fn folders(scope: &Scope, things: &mut BTreeSet<String>) {
    walk(&scope.evidence, &mut |path, kind| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if kind.is_dir() && is_of_a_run(&name) {
            things.insert(format!("folder {}", path.display()));
        }
    });
    for parent in [env::temp_dir(), "/var/tmp".into(), "/dev/shm".into()] {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            // That of a process that is there is somebody else's. QEMU's own temporary files begin with "vl.".
            let process = name.split('-').nth(1).unwrap_or_default();
            let dead =
                !Path::new("/proc").join(process).exists() || process == std::process::id().to_string();
            if (is_of_a_run(&name) && dead) || name.starts_with("vl.") || name.contains(&scope.name) {
                things.insert(format!("folder {}", path.display()));
            }
        }
    }
}

/// `alpy-<process>-<count>-<random>`.
fn is_of_a_run(name: &str) -> bool {
    let mut parts = name.split('-');
    parts.next() == Some("alpy")
        && parts.clone().count() == 3
        && parts.take(2).all(|part| part.parse::<u32>().is_ok())
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path, fs::FileType)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        visit(&entry.path(), kind);
        if kind.is_dir() {
            walk(&entry.path(), visit);
        }
    }
}
