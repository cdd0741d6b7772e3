// SPDX-License-Identifier: GPL-3.0-or-later
//! What a private engine can leave behind, and its removal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid};

use crate::process;

const RECORD: &str = "runtime";

/// Writes down where the engine's sockets will be, before they are.
pub fn record(folder: &Path, runtime: &Path) -> Result<()> {
    fs::write(folder.join(RECORD), runtime.as_os_str().as_encoded_bytes())
        .context("record where the engine's sockets are")
}

/// Where the engine's sockets are, if it runs or was killed.
pub fn recorded(folder: &Path) -> Result<Option<PathBuf>> {
    match fs::read_to_string(folder.join(RECORD)) {
        // Anything else is a record that was being written when its writer was killed, before there was a folder.
        Ok(path) => Ok(Some(PathBuf::from(path)).filter(|path| path.is_absolute() && name_is_ours(path))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("read where the engine's sockets are"),
    }
}

fn name_is_ours(runtime: &Path) -> bool {
    runtime
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"alpy-"))
}

/// Removes what an engine left whose keeper was killed: processes, mounts, the folder of sockets.
pub fn remove(folder: &Path) -> Result<()> {
    let Some(runtime) = recorded(folder)? else {
        return Ok(());
    };
    let name = runtime.as_os_str().as_encoded_bytes().to_vec();
    // dockerd was told to end when its keeper died, and is given the time to.
    let of_engine = || processes(|process| contains(&process.command_line(), &name));
    let mut limit = Duration::from_secs(20);
    loop {
        let ended = process::poll(limit, || Ok(of_engine().is_empty().then_some(())))?;
        if ended.is_some() {
            break;
        }
        if limit < Duration::from_secs(20) {
            bail!(
                "processes of an earlier private engine do not end: {:?}",
                of_engine()
            );
        }
        limit = Duration::from_secs(10);
        kill_all(&of_engine());
    }
    // A container outlives its engine and its shim, but not unseen: its root is in the engine's data.
    let data = folder.join("data").into_os_string().into_encoded_bytes();
    kill_all(&processes(|process| {
        root_is_in(&process.read("mountinfo"), &data)
    }));
    remove_files(folder, &runtime)
}

/// Removes mounts and files of an engine whose processes are gone.
pub fn remove_files(folder: &Path, runtime: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    for mount in mounts_under(&mounts, &[runtime, folder]).iter().rev() {
        umount2(mount, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", mount.display()))?;
    }
    open_folders(runtime);
    match fs::remove_dir_all(runtime) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", runtime.display()));
        }
        _ => {}
    }
    fs::remove_file(folder.join(RECORD)).context("remove the record of the engine's sockets")
}

/// dockerd makes a folder that even its owner may not enter, which root does not notice.
fn open_folders(folder: &Path) {
    // What does not succeed here fails in the removal, with an error that says more.
    let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_folders(&entry.path());
        }
    }
}

/// Kills all descendants of this process, which adopts orphans, until there are none.
pub fn kill_descendants() -> Result<()> {
    let gone = process::poll_to_the_end(Duration::from_secs(20), || {
        let descendants = descendants_of(getpid());
        kill_all(&descendants);
        descendants.is_empty().then_some(())
    });
    gone.context("processes of the engine do not end")
}

fn kill_all(pids: &[Pid]) {
    for &pid in pids {
        // One that has ended by now needs no signal, and one of another user is none of ours.
        let _ = kill(pid, Signal::SIGKILL);
    }
}

/// A folder of /proc.
struct Process(Pid);

impl Process {
    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(format!("/proc/{}/{file}", self.0)).unwrap_or_default()
    }

    fn command_line(&self) -> Vec<u8> {
        self.read("cmdline")
    }

    fn parent(&self) -> Option<Pid> {
        parent_in(&String::from_utf8_lossy(&self.read("stat")))
    }
}

fn processes(wanted: impl Fn(&Process) -> bool) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw);
    pids.filter(|&pid| pid != getpid() && wanted(&Process(pid)))
        .collect()
}

/// The descendants of a process.
pub fn descendants_of(ancestor: Pid) -> Vec<Pid> {
    let all = processes(|_| true).into_iter();
    let parents: Vec<(Pid, Pid)> = all
        .filter_map(|pid| Some((pid, Process(pid).parent()?)))
        .collect();
    let mut found = vec![ancestor];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(_, of)| *of == parent)
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    found.split_off(1)
}

/// The parent in `/proc/<pid>/stat`: the second field after the name, which may have blanks and parentheses itself.
fn parent_in(stat: &str) -> Option<Pid> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(1)?.parse().ok().map(Pid::from_raw)
}

/// The mount points in or at the folders, in the order of mounting.
fn mounts_under(mountinfo: &str, folders: &[&Path]) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.map(|point| PathBuf::from(point.replace("\\040", " ")));
    points
        .filter(|point| folders.iter().any(|folder| point.starts_with(folder)))
        .collect()
}

/// Whether the root of a process with these mounts is in the folder: the name is in the source or in the options of
/// what is mounted on `/`.
fn root_is_in(mountinfo: &[u8], folder: &[u8]) -> bool {
    mountinfo
        .split(|&byte| byte == b'\n')
        .any(|mount| mount.split(|&byte| byte == b' ').nth(4) == Some(b"/") && contains(mount, folder))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_parent_after_a_name_of_any_kind() {
        assert_eq!(parent_in("7 (a b) S 1 7 7 0"), Some(Pid::from_raw(1)));
        assert_eq!(parent_in("7 (x) Z 9) S 3 7 7 0"), Some(Pid::from_raw(3)));
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn knows_a_container_by_its_root() {
        let root = b"107 77 0:41 / / rw,relatime - overlay overlay rw,lowerdir=/t/data/l/A,upperdir=/t/data/B/diff\n";
        assert!(root_is_in(root, b"/t/data"));
        assert!(!root_is_in(root, b"/other/data"));
        // A service of the host that sees the engine's mounts is no container.
        let service =
            b"22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 254:0 /t/data /t/data rw - ext4 /dev/vda rw\n";
        assert!(!root_is_in(service, b"/t/data"));
    }

    #[test]
    fn finds_mounts_of_the_engine_alone() {
        let mountinfo = "\
22 1 254:0 / / rw - ext4 /dev/vda rw
30 22 254:0 /t/data /t/data rw - ext4 /dev/vda rw
31 30 0:40 / /t/data/overlay2/a\\040b/merged rw - overlay overlay rw
32 22 0:41 / /tmp/alpy-1-ab/exec/netns/x rw - nsfs nsfs rw
33 22 0:41 / /tmp/alpy-1-abc rw - tmpfs tmpfs rw
";
        let found = mounts_under(mountinfo, &[Path::new("/tmp/alpy-1-ab"), Path::new("/t/data")]);
        let expected = [
            "/t/data",
            "/t/data/overlay2/a b/merged",
            "/tmp/alpy-1-ab/exec/netns/x",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
