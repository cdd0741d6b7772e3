// SPDX-License-Identifier: GPL-3.0-or-later
//! A user who exists for one run.
//!
//! His home, `/var/tmp/alpy-<pid>`, belongs to root and has a `lock` that the run holds. A home whose lock is free is
//! what a killed run left: the next run removes it, its user, his engine and group, and all that is his.

use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::Flock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Group, Pid, User, setgid, setgroups, setuid};

use super::Rights;
use crate::process::{self, Kind};
use crate::{engine, needs, subids};

const HOMES: &str = "/var/tmp";
const PREFIX: &str = "alpy-";
const LOCK: &str = "lock";
const NEW: &str = "new";
/// What most people's is on Debian.
const SHELL: &str = "/bin/bash";
/// What the name of an engine's group adds to that of the user.
const GROUP: &str = "-engine";
/// In the home: the data of the engine that is the group's.
const ENGINE: &str = "engine";

/// A user of this run. Dropping it removes the user and all that is his.
pub struct Account {
    user: User,
    /// Of the engine that he may use.
    group: Option<Group>,
    remains: Remains,
}

impl Account {
    /// Makes the user, with a home, subordinate ids, and the group that his rights take.
    pub fn create(rights: Rights) -> Result<Self> {
        // No two runs have the same pid at a time, and what an earlier one left is removed before.
        let name = format!("{PREFIX}{}", std::process::id());
        let home = Path::new(HOMES).join(&name);
        // Under another name until the lock is held: another run takes a home with a free lock for a leftover.
        let new = home.with_extension(NEW);
        DirBuilder::new()
            .mode(0o711)
            .create(&new)
            .with_context(|| format!("create {}", new.display()))?;
        fs::set_permissions(&new, Permissions::from_mode(0o711))?;
        let lock = needs::lock(File::create(new.join(LOCK))?, Duration::ZERO)?;
        fs::rename(&new, &home).with_context(|| format!("rename {}", new.display()))?;
        // From here on, whatever happens, the next run finds the home and knows whose it was.
        let remains = Remains {
            name: name.clone(),
            home: home.clone(),
            _lock: lock,
            removed: false,
        };
        for file in ["/etc/subuid", "/etc/subgid"] {
            // useradd gives ranges where these exist.
            File::options()
                .create(true)
                .append(true)
                .open(file)
                .with_context(|| format!("create {file}"))?;
        }
        let home_text = home.to_string_lossy();
        let mut arguments = vec!["--no-create-home", "--home-dir", &home_text, "--shell", SHELL];
        let group_name = remains.group();
        if rights == Rights::EngineGroup {
            tool("groupadd", &[&group_name])?;
            arguments.extend(["--groups", &group_name]);
        }
        arguments.extend(["--user-group", &name]);
        tool("useradd", &arguments)?;
        let user = User::from_name(&name)?.with_context(|| format!("useradd has made no user {name}"))?;
        if !subids::has(&name, &user.uid.to_string())? {
            let ranges = subids::arguments()?;
            let mut arguments: Vec<&str> = ranges.iter().map(String::as_str).collect();
            arguments.push(&name);
            tool("usermod", &arguments)?;
        }
        let account = Self {
            user,
            group: Group::from_name(&group_name)?,
            remains,
        };
        for own in [account.runtime(), account.writable()] {
            DirBuilder::new()
                .mode(0o700)
                .create(&own)
                .with_context(|| format!("create {}", own.display()))?;
            account.own(&own)?;
        }
        Ok(account)
    }

    /// Name of the user.
    pub fn name(&self) -> &str {
        &self.user.name
    }

    /// His home.
    pub fn home(&self) -> &Path {
        &self.remains.home
    }

    /// The group of the engine that he may use, if he may use one.
    pub fn group(&self) -> Option<&str> {
        self.group.as_ref().map(|group| group.name.as_str())
    }

    /// The folder for the data of that engine.
    pub fn engine(&self) -> PathBuf {
        self.home().join(ENGINE)
    }

    fn runtime(&self) -> PathBuf {
        self.home().join("run")
    }

    /// In place of the home, which the user must not write to: it has the lock.
    fn writable(&self) -> PathBuf {
        self.home().join("home")
    }

    /// Gives the user a file or folder, with all that is in it.
    pub fn own(&self, path: &Path) -> Result<()> {
        let (uid, gid) = (self.user.uid.as_raw(), self.user.gid.as_raw());
        lchown(path, Some(uid), Some(gid)).with_context(|| format!("chown {}", path.display()))?;
        if path.is_dir() && !path.is_symlink() {
            for entry in fs::read_dir(path)? {
                self.own(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// Makes a command run as the user, in no group but his own and that of the engine.
    pub fn become_user(&self, command: &mut Command) {
        let (uid, gid) = (self.user.uid, self.user.gid);
        let groups: Vec<Gid> = self.group.iter().map(|group| group.gid).collect();
        let become_user = move || {
            setgroups(&groups)?;
            setgid(gid)?;
            setuid(uid).map_err(Into::into)
        };
        // SAFETY: between fork and exec, `become_user` makes three system calls and allocates nothing.
        unsafe { command.pre_exec(become_user) };
        command
            .env("HOME", self.writable())
            .env("XDG_RUNTIME_DIR", self.runtime());
        command
            .env("USER", self.name())
            .env("LOGNAME", self.name())
            .env("SHELL", SHELL);
    }

    /// Removes the user and all that is his.
    pub fn remove(mut self) -> Result<()> {
        self.remains.remove()
    }
}

/// Removes the users of runs that were killed.
pub fn remove_leftovers() -> Result<()> {
    for entry in fs::read_dir(HOMES)
        .with_context(|| format!("read {HOMES}"))?
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        // Anyone may create a folder there, so what is not root's own is none of ours.
        let ours = entry
            .metadata()
            .is_ok_and(|meta| meta.is_dir() && meta.uid() == 0);
        let home = entry.path();
        if let (true, Some(pid)) = (ours, name.strip_suffix(".new").and_then(pid_of)) {
            if !Path::new("/proc").join(pid).exists() {
                fs::remove_dir_all(&home)?;
            }
        }
        if !ours || pid_of(&name).is_none() {
            continue;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(home.join(LOCK))?;
        // Held: a run that goes on at this moment.
        let Ok(lock) = needs::lock(file, Duration::ZERO) else {
            continue;
        };
        eprintln!("xtask: remove user {name}, whom a killed run left");
        Remains {
            name,
            home,
            _lock: lock,
            removed: false,
        }
        .remove()?;
    }
    Ok(())
}

/// The process that gave a user this name.
fn pid_of(name: &str) -> Option<&str> {
    let pid = name.strip_prefix(PREFIX)?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(pid)
}

/// What a run leaves, if nobody removes it.
struct Remains {
    name: String,
    home: PathBuf,
    _lock: Flock<File>,
    removed: bool,
}

impl Remains {
    /// The name of the engine's group.
    fn group(&self) -> String {
        self.name.clone() + GROUP
    }

    fn remove(&mut self) -> Result<()> {
        self.removed = true;
        if let Some(user) = User::from_name(&self.name)? {
            // A user of this name with another home is somebody else.
            if user.dir != self.home {
                bail!(
                    "user {} has the home {}: not removed",
                    self.name,
                    user.dir.display()
                );
            }
            let uid = user.uid.as_raw();
            let mut ranges = subids::ranges(&self.name, &uid.to_string())?;
            ranges.push((uid.into(), 1));
            kill_all(&ranges)?;
            tool("userdel", &[&self.name])?;
        }
        // Its containers are root's, so they did not end with the processes of the user.
        engine::remove_leftovers(&self.home.join(ENGINE))?;
        if Group::from_name(&self.group())?.is_some() {
            tool("groupdel", &[&self.group()])?;
        }
        // The lock goes last, with the folder: until then the next run can find it.
        fs::remove_dir_all(&self.home).with_context(|| format!("remove {}", self.home.display()))
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        if let Err(error) = self.remove() {
            eprintln!("xtask: user {} is not removed: {error:#}", self.name);
        }
    }
}

/// Kills the processes of these ranges of users until there are none.
fn kill_all(ranges: &[(u64, u64)]) -> Result<()> {
    let gone = process::poll_to_the_end(Duration::from_secs(20), || {
        let pids = processes_of(ranges);
        for &pid in &pids {
            let _ = kill(pid, Signal::SIGKILL);
        }
        pids.is_empty().then_some(())
    });
    gone.context("processes of the user do not end")
}

fn processes_of(ranges: &[(u64, u64)]) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let (uid, zombie) = uid_in(&status)?;
        let wanted = ranges
            .iter()
            .any(|&(first, count)| (first..first + count).contains(&uid));
        (wanted && !zombie).then_some(Pid::from_raw(pid))
    });
    processes.collect()
}

/// The real user id in `/proc/<pid>/status`, and whether the process has ended.
fn uid_in(status: &str) -> Option<(u64, bool)> {
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))?
            .split_whitespace()
            .next()
    };
    Some((field("Uid:")?.parse().ok()?, field("State:") == Some("Z")))
}

fn tool(program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = process::command(program);
    command.args(arguments);
    process::output(command, Kind::Cleanup)?
        .success(program)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_user_of_a_process() {
        let status = "Name:\tcat\nState:\tS (sleeping)\nUid:\t100000\t0\t0\t0\n";
        assert_eq!(uid_in(status), Some((100_000, false)));
        assert_eq!(uid_in("State:\tZ (zombie)\nUid:\t5\t5\t5\t5\n"), Some((5, true)));
        assert_eq!(uid_in(""), None);
    }

    #[test]
    fn knows_the_names_that_it_gives() {
        assert_eq!(pid_of("alpy-4711"), Some("4711"));
        assert_eq!(pid_of("alpy-"), None);
        assert_eq!(
            pid_of("alpy-4711-ab"),
            None,
            "the folder of a private engine's sockets"
        );
        assert_eq!(pid_of("systemd-private-1"), None);
    }
}
