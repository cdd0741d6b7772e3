// SPDX-License-Identifier: GPL-3.0-or-later
//! The evidence directory of a run: the one thing that stays.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::error::{Error, Result};
use crate::report::{self, Verdict};

/// The name of the file whose lock says that a directory is in use.
pub(crate) const LOCK: &str = ".lock";

/// What the folders of attempts that did not pass are called, before their numbers, and how many are kept.
const ATTEMPT: &str = "attempt";
const ATTEMPTS: u32 = 5;

/// How many runs of one test may be under way at once. Each has its own directory; past this there is a runaway.
const SLOTS: usize = 1000;

/// A directory that one run writes its evidence to, locked for as long as the run lasts.
///
/// It is `<base>/<test>`, and what a passed run before left there is removed. One that did not pass stays, in `attempt1`, `attempt2` and so on
/// below, until a run passes and another one follows; of these the last five are kept. While another run of the same test is under way,
/// in this process or another one, it is `<base>/<test>.2`, `<test>.3` and so on. The base is what `ALPY_EVIDENCE` names,
/// else `alpy` in cargo's target directory, else `target/alpy` below the working directory.
#[derive(Debug)]
pub struct Evidence {
    dir: PathBuf,
    attempt: u32,
    _lock: Flock<File>,
}

impl Evidence {
    /// Takes a free directory for a run of the test and empties it.
    ///
    /// # Errors
    /// The name is not one plain file name, or the directory cannot be made or emptied.
    pub fn create(test: &str) -> Result<Self> {
        Self::create_in(&base(), test)
    }

    /// The same, in another base.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_in(base: &Path, test: &str) -> Result<Self> {
        check_name(test)?;
        for slot in 1..=SLOTS {
            let dir = base.join(if slot == 1 {
                test.to_owned()
            } else {
                format!("{test}.{slot}")
            });
            let at = |source| Error::Evidence {
                dir: dir.clone(),
                source,
            };
            fs::create_dir_all(&dir).map_err(at)?;
            if fs::symlink_metadata(&dir).map_err(at)?.is_symlink() {
                let reason = "it is a symbolic link, which is not followed; remedy: remove it";
                return Err(at(io::Error::other(reason)));
            }
            if is_foreign(&dir).map_err(at)? {
                let reason =
                    "it has files in it and is not an evidence directory; remedy: another name, or remove it";
                return Err(at(io::Error::other(reason)));
            }
            if let Some(lock) = try_lock(&dir.join(LOCK)).map_err(at)? {
                let attempt = prepare(&dir).map_err(at)?;
                return Ok(Self {
                    dir,
                    attempt,
                    _lock: lock,
                });
            }
        }
        Err(Error::Evidence {
            dir: base.join(test),
            source: io::Error::other("all its slots are in use"),
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which attempt this run is, from 1: one more than the run before if that did not pass.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The path of a file in it.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }
}

/// Whether a test can have this name: one plain file name, and a part of a container's.
pub(crate) fn check_name(test: &str) -> Result<()> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    if test.is_empty() || test.len() > 200 || test.starts_with('.') || !test.chars().all(plain) {
        return Err(Error::TestName {
            name: test.to_owned(),
        });
    }
    Ok(())
}

/// The lock, or nothing where somebody else holds it.
fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{LOCK}: {error}")))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Whether there is something in a directory that no run has put there. It would be a pity to remove it.
fn is_foreign(dir: &Path) -> io::Result<bool> {
    // In this order: a run that begins at this moment makes its lock before anything else.
    Ok(fs::read_dir(dir)?.next().is_some() && !dir.join(LOCK).exists())
}

/// Prepares the directory for a new run, and returns which attempt it is.
fn prepare(dir: &Path) -> io::Result<u32> {
    let before = report::read_record(dir).ok();
    let Some(before) = before.filter(|before| before.verdict != Verdict::Passed) else {
        clear(dir, |_| true)?;
        return Ok(1);
    };
    let number = before.attempt.max(1);
    let oldest = number.saturating_sub(ATTEMPTS - 1);
    let is_kept = |name: &str| {
        let kept = name.strip_prefix(ATTEMPT).and_then(|kept| kept.parse().ok());
        kept.is_some_and(|kept: u32| (oldest..before.attempt.max(1)).contains(&kept))
    };
    let kept = dir.join(format!("{ATTEMPT}{number}"));
    // The folder of the run itself is for no one to see, and its guardian may be removing it.
    clear(dir, |name| {
        name.starts_with("alpy-") || name.starts_with(ATTEMPT) && !is_kept(name)
    })?;
    fs::create_dir(&kept)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let stays = name == LOCK || name.to_str().is_some_and(|name| name.starts_with(ATTEMPT));
        if !stays {
            fs::rename(entry.path(), kept.join(name))?;
        }
    }
    Ok(number.saturating_add(1))
}

/// Removes all but the lock whose names are such.
fn clear(dir: &Path, is_removed: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK || !is_removed(&entry.file_name().to_string_lossy()) {
            continue;
        }
        // Links are removed, never followed.
        let removed = match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path()),
            false => fs::remove_file(entry.path()),
        };
        // The guardian of a killed run may be at it too.
        removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
    }
    Ok(())
}

/// What the attempts of one call of a test runner have in common, so that a test that passes after it has failed is known to be flaky: the
/// id of a run of nextest, which all its processes have, or one of this process.
pub(crate) fn attempts_of() -> String {
    static PROCESS: OnceLock<String> = OnceLock::new();
    if let Some(run) = env::var("NEXTEST_RUN_ID").ok().filter(|run| !run.is_empty()) {
        return format!("nextest {run}");
    }
    let random = || fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let process = PROCESS.get_or_init(|| format!("process {} {}", std::process::id(), random().trim()));
    process.clone()
}

fn base() -> PathBuf {
    match env::var_os("ALPY_EVIDENCE") {
        Some(dir) => PathBuf::from(dir),
        None => target_dir().join("alpy"),
    }
}

/// Cargo's target directory: a test executable lies in it, and cargo marks it with a `CACHEDIR.TAG`.
///
/// An executable out of an archive of nextest, or in a build directory of its own (`CARGO_BUILD_BUILD_DIR`), lies elsewhere. Then it is
/// `CARGO_TARGET_DIR` if that is an absolute path, else `target` in the workspace of the test, else `target` in the working directory.
pub fn target_dir() -> PathBuf {
    let executable = env::current_exe().unwrap_or_default();
    target_dir_of(&executable, |name| env::var_os(name).map(PathBuf::from))
}

fn target_dir_of(executable: &Path, variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let is_elsewhere = |dir: &Path| {
        // nextest unpacks into `nextest-archive-XXXXXX/target`, which it removes at the end.
        let name = dir.parent().and_then(Path::file_name);
        let unpacked = name.is_some_and(|name| name.to_string_lossy().starts_with("nextest-archive-"));
        unpacked || absolute("CARGO_BUILD_BUILD_DIR").is_some_and(|build| dir.starts_with(build))
    };
    let marked = executable
        .ancestors()
        .skip(1)
        .find(|dir| dir.join("CACHEDIR.TAG").is_file());
    if let Some(dir) = marked.filter(|dir| !is_elsewhere(dir)) {
        return dir.to_owned();
    }
    let workspace = || {
        let package = absolute("CARGO_MANIFEST_DIR")?;
        let root = package.ancestors().find(|dir| dir.join("Cargo.lock").is_file());
        Some(root.unwrap_or(&package).join("target"))
    };
    absolute("CARGO_TARGET_DIR")
        .or_else(workspace)
        .unwrap_or_else(|| PathBuf::from("target"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_at_the_same_time_gets_its_own_directory() {
        let base = tempfile::tempdir().unwrap();
        let first = Evidence::create_in(base.path(), "t").unwrap();
        let second = Evidence::create_in(base.path(), "t").unwrap();
        assert_eq!(first.dir(), base.path().join("t"));
        assert_eq!(second.dir(), base.path().join("t.2"));
        drop(first);
        assert_eq!(
            Evidence::create_in(base.path(), "t").unwrap().dir(),
            base.path().join("t")
        );
    }

    #[test]
    fn runs_that_begin_in_the_same_moment_do_not_take_each_other_for_strangers() {
        const MANY: usize = 8;
        for _ in 0..200 {
            let base = tempfile::tempdir().unwrap();
            let begin = std::sync::Barrier::new(MANY);
            let run = || {
                begin.wait();
                Evidence::create_in(base.path(), "t").unwrap()
            };
            let dirs = std::thread::scope(|scope| {
                let runs: Vec<_> = (0..MANY).map(|_| scope.spawn(run)).collect();
                // All are held until all are there.
                let runs: Vec<_> = runs.into_iter().map(|run| run.join().unwrap()).collect();
                runs.iter()
                    .map(|run| run.dir().to_owned())
                    .collect::<std::collections::HashSet<_>>()
            });
            assert_eq!(dirs.len(), MANY);
        }
    }

    #[test]
    fn removes_what_the_last_run_left_and_follows_no_link() {
        let base = tempfile::tempdir().unwrap();
        let outside = base.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        let dir = Evidence::create_in(base.path(), "t").unwrap().dir().to_owned();
        fs::create_dir(dir.join("sub")).unwrap();
        fs::write(dir.join("sub/file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, dir.join("link")).unwrap();
        let _again = Evidence::create_in(base.path(), "t").unwrap();
        let left: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, [LOCK]);
        assert!(outside.join("precious").exists());
    }

    /// Ends a run in the directory with this verdict.
    fn end(evidence: Evidence, verdict: &str) {
        let record = format!(
            r#"{{"format": 1, "test": "t", "verdict": "{verdict}", "attempt": {}}}"#,
            evidence.attempt()
        );
        fs::write(evidence.file("run.json"), record).unwrap();
        fs::create_dir(evidence.file("alpy-1-0-x")).unwrap();
        fs::create_dir(evidence.file("containers")).unwrap();
        fs::write(evidence.file("containers/output"), evidence.attempt().to_string()).unwrap();
        // With it ends the lock of the directory.
        drop(evidence);
    }

    #[test]
    fn keeps_each_attempt_that_did_not_pass_until_one_does() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("t");
        let kept = || {
            let names = fs::read_dir(&dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names.retain(|name| name != LOCK);
            names
        };
        let next = || Evidence::create_in(base.path(), "t").unwrap();
        end(next(), "failed");
        let second = next();
        assert_eq!((second.attempt(), kept()), (2, vec!["attempt1".to_owned()]));
        // Killed, for example by nextest's time limit.
        end(second, "under-way");
        let third = next();
        assert_eq!(third.attempt(), 3);
        assert_eq!(kept(), ["attempt1", "attempt2"]);
        for attempt in ["1", "2"] {
            let output = dir.join(format!("attempt{attempt}/containers/output"));
            assert_eq!(fs::read_to_string(output).unwrap(), attempt);
        }
        assert!(!dir.join("attempt1/alpy-1-0-x").exists());
        end(third, "failed");
        for attempt in 4..20 {
            let evidence = next();
            assert_eq!(evidence.attempt(), attempt);
            end(evidence, "failed");
        }
        end(next(), "passed");
        let first = (15..20).map(|attempt| format!("attempt{attempt}"));
        let of_passed = kept();
        assert!(
            first.clone().all(|name| of_passed.contains(&name)),
            "{of_passed:?}"
        );
        assert_eq!(
            of_passed.iter().filter(|name| name.starts_with(ATTEMPT)).count(),
            5
        );
        // The one after a passed run begins anew.
        let again = next();
        assert_eq!((again.attempt(), kept()), (1, Vec::new()));
    }

    #[test]
    fn is_not_led_elsewhere_by_a_link_in_its_place_or_in_that_of_its_lock() {
        use std::os::unix::fs::symlink;
        let base = tempfile::tempdir().unwrap();
        let outside = base.path().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, base.path().join("t")).unwrap();
        let error = Evidence::create_in(base.path(), "t").unwrap_err();
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("symbolic link"), "{reason}");
        fs::create_dir(base.path().join("u")).unwrap();
        symlink(outside.join("lock"), base.path().join("u").join(LOCK)).unwrap();
        let error = Evidence::create_in(base.path(), "u").unwrap_err();
        assert!(matches!(error, Error::Evidence { .. }), "{error}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn leaves_a_directory_alone_that_is_not_of_its_making() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("images")).unwrap();
        fs::write(base.path().join("images/precious"), "x").unwrap();
        let error = Evidence::create_in(base.path(), "images").unwrap_err();
        assert!(matches!(error, Error::Evidence { .. }), "{error}");
        assert!(base.path().join("images/precious").exists());
    }

    #[test]
    fn refuses_a_name_that_is_a_path() {
        for name in ["", "..", ".hidden", "a/b", "a b"] {
            let error = Evidence::create_in(Path::new("/nonexistent"), name).unwrap_err();
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }

    #[test]
    fn finds_the_target_directory_of_a_test_that_lies_elsewhere() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for dir in ["target", "build", "nextest-archive-x/target"] {
            fs::create_dir_all(at(dir)).unwrap();
            fs::write(at(dir).join("CACHEDIR.TAG"), "").unwrap();
        }
        fs::create_dir_all(at("work/package")).unwrap();
        fs::write(at("work/Cargo.lock"), "").unwrap();
        let find = |executable: &str, set: &[(&str, &str)]| {
            let variable = |name: &str| set.iter().find(|(of, _)| *of == name).map(|(_, path)| at(path));
            target_dir_of(&at(executable), variable)
        };
        let manifest = ("CARGO_MANIFEST_DIR", "work/package");
        let build = ("CARGO_BUILD_BUILD_DIR", "build");
        assert_eq!(find("target/debug/deps/t", &[manifest, build]), at("target"));
        for executable in [
            "build/debug/deps/t",
            "nextest-archive-x/target/debug/deps/t",
            "unmarked/t",
        ] {
            let given = find(executable, &[manifest, build, ("CARGO_TARGET_DIR", "given")]);
            assert_eq!(given, at("given"), "{executable}");
            let own = find(executable, &[manifest, build]);
            assert_eq!(own, at("work/target"), "{executable}");
        }
        assert_eq!(find("unmarked/t", &[]), Path::new("target"));
    }

    #[test]
    fn finds_the_target_directory_of_this_test() {
        assert!(target_dir().join("CACHEDIR.TAG").exists());
    }
}
