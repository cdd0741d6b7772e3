// SPDX-License-Identifier: GPL-3.0-or-later
//! Runs of tests: those under way on this machine, and what has become of the ones before, as their evidence tells.
//!
//! ```no_run
//! for run in alpy::runs::under_way() {
//!     println!("{} since {:?}, in {}", run.test, run.began, run.dir.display());
//! }
//! # Ok::<_, alpy::Error>(())
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::error::{Error, Result};
use crate::evidence::LOCK;
use crate::report::{self, Record, Verdict};

/// A run of a test.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct RunInfo {
    /// Its evidence directory.
    pub dir: PathBuf,
    /// The name of the test.
    pub test: String,
    /// What the test is about.
    pub description: Option<String>,
    /// How it stands.
    pub state: RunState,
    /// When it began.
    #[serde(serialize_with = "since_1970")]
    pub began: SystemTime,
    /// How long it took, in whole, if it has ended in order.
    #[serde(serialize_with = "in_seconds")]
    pub took: Option<Duration>,
    /// The process that runs it.
    pub pid: Option<u32>,
    /// What its containers have as [label](crate::RUN_LABEL). Nothing before the engine was found.
    pub id: Option<String>,
    /// Where its engine is, such as `unix:///run/docker.sock`. Nothing before it was found.
    pub engine: Option<String>,
    /// Why it failed, in short.
    pub failure: Option<String>,
    /// Where each machine's evidence is.
    pub machines: Vec<PathBuf>,
    /// Its links.
    pub links: Vec<LinkInfo>,
}

/// A link of a run.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct LinkInfo {
    /// The capture.
    pub capture: PathBuf,
    /// Its node, if it has one, by number.
    pub node: Option<usize>,
    /// The machines at its ends, by number.
    pub machines: Vec<usize>,
    /// The addresses of the node.
    pub addresses: Vec<String>,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RunState {
    /// Its process runs it.
    UnderWay,
    /// The test passed.
    Passed,
    /// The test did not.
    Failed,
    /// What the test measured cannot be judged: the host was overloaded.
    Unjudged,
    /// Its process ended in the middle.
    Killed,
}

/// As in JSON.
impl fmt::Display for RunState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::UnderWay => "under-way",
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Unjudged => "unjudged",
            Self::Killed => "killed",
        })
    }
}

/// The run that an evidence directory is of.
///
/// # Errors
/// The directory has no `run.json`, or one that cannot be read.
pub fn read(dir: &Path) -> Result<RunInfo> {
    let record = report::read_record(dir).map_err(|source| Error::NoRun {
        dir: dir.to_owned(),
        source,
    })?;
    Ok(RunInfo::new(dir, record))
}

/// The last run of each test below a base of evidence directories, such as `target/alpy`, the newest one first. What cannot be read is no
/// run.
pub fn below(base: &Path) -> Vec<RunInfo> {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    sorted(entries.map(|entry| entry.path()))
}

/// The runs that processes of this user run on this machine, wherever their evidence is, the newest one first; for root, those of all users.
/// It blocks the thread for the milliseconds that it takes to look at all processes.
///
/// A process that runs a test holds the lock of the test's evidence directory, and the kernel tells which files it has open.
pub fn under_way() -> Vec<RunInfo> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let locks = processes.flat_map(|process| locks_of(&process.path()).into_iter().flatten());
    let mut runs = sorted(locks.filter_map(|lock| lock.parent().map(Path::to_owned)));
    runs.retain(|run| run.state == RunState::UnderWay);
    runs
}

/// The locks of evidence directories that a process has open, if it may be asked.
fn locks_of(process: &Path) -> io::Result<Vec<PathBuf>> {
    let descriptors = fs::read_dir(process.join("fd"))?.flatten();
    let files = descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    Ok(files.filter(|path| path.ends_with(LOCK)).collect())
}

/// Whether the process that has begun a run still runs it. To try the lock would be in the way of a run that begins.
fn is_under_way(dir: &Path, pid: Option<u32>) -> bool {
    let Some(pid) = pid else {
        return false;
    };
    let Ok(lock) = fs::canonicalize(dir.join(LOCK)) else {
        return false;
    };
    match locks_of(Path::new(&format!("/proc/{pid}"))) {
        Ok(locks) => locks.contains(&lock),
        // The kernel hides the files of another user's process, and those of a zombie, even one's own.
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied && !has_ended(pid),
    }
}

/// Whether a process is gone or a zombie. Any user may read its state: proc_pid_stat(5).
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    let state = stat
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.chars().next()));
    matches!(state.flatten(), None | Some('Z' | 'X'))
}

/// As in `run.json`.
fn since_1970<S: Serializer>(moment: &SystemTime, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_f64(report::seconds(*moment))
}

fn in_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

fn sorted(dirs: impl Iterator<Item = PathBuf>) -> Vec<RunInfo> {
    let dirs: BTreeSet<PathBuf> = dirs.collect();
    let mut runs: Vec<_> = dirs.iter().filter_map(|dir| read(dir).ok()).collect();
    runs.sort_by_key(|run| std::cmp::Reverse(run.began));
    runs
}

impl RunInfo {
    fn new(dir: &Path, record: Record) -> Self {
        let state = match record.verdict {
            Verdict::Passed => RunState::Passed,
            Verdict::Failed => RunState::Failed,
            Verdict::Unjudged => RunState::Unjudged,
            Verdict::UnderWay if is_under_way(dir, record.pid) => RunState::UnderWay,
            Verdict::UnderWay => RunState::Killed,
        };
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let failure = record.failure.map(|failure| match failure.step {
            Some(step) => format!("{step}: {}", failure.cause),
            None => failure.cause,
        });
        let link = |link: report::LinkRecord| LinkInfo {
            capture: dir.join(link.capture),
            node: link.ends.iter().find_map(|end| end.node),
            machines: link.ends.iter().filter_map(|end| end.machine).collect(),
            addresses: link.ends.into_iter().flat_map(|end| end.addresses).collect(),
        };
        Self {
            state,
            test: record.test,
            description: record.description,
            began: SystemTime::UNIX_EPOCH
                .checked_add(seconds(record.began))
                .unwrap_or(SystemTime::UNIX_EPOCH),
            took: record.ended.map(|ended| seconds(ended - record.began)),
            pid: record.pid,
            id: record.id,
            engine: record.engine,
            failure,
            machines: record
                .machines
                .iter()
                .map(|machine| match machine.folder.as_str() {
                    "" => dir.to_owned(),
                    folder => dir.join(folder),
                })
                .collect(),
            links: record.links.into_iter().map(link).collect(),
            dir: dir.to_owned(),
        }
    }

    /// What the run is called among those of its base: the name of its evidence directory, which is that of the test, or has a number
    /// behind it where several run at the same time.
    pub fn name(&self) -> String {
        let name = self.dir.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The name of a container of this run, such as `node0`, as the engine knows it.
    pub fn container(&self, name: &str) -> Option<String> {
        let id = self.id.as_ref()?;
        Some(crate::run::container_name(&self.test, id, name))
    }

    /// Waits until its process runs it no longer, however long that takes, and reads it once more. Cancel safe.
    ///
    /// # Errors
    /// As [`read`].
    pub async fn ended(&self) -> Result<Self> {
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        while is_under_way(&self.dir, self.pid) {
            looks.tick().await;
        }
        read(&self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root may list the files of a zombie, and finds none; other users get an error.
    #[test]
    #[expect(clippy::disallowed_methods, reason = "a child that ends at once, by itself")]
    fn a_process_that_nobody_has_waited_for_runs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK), "").unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let is_zombie = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.contains(") Z ")
        };
        while !is_zombie() {
            std::thread::yield_now();
        }
        assert!(!is_under_way(dir.path(), Some(child.id())));
        child.wait().unwrap();
        assert!(!is_under_way(dir.path(), Some(child.id())));
        assert!(has_ended(u32::MAX) && !has_ended(std::process::id()));
    }
}
