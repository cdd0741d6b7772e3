// SPDX-License-Identifier: GPL-3.0-or-later
//! A share in the private engine, which runs for as long as someone holds one.
//!
//! Files in the engine's folder: `start.lock` is held while someone starts or joins, `keeper.lock` while the keeper
//! lives, and `runtime` names the short-lived folder of its sockets, so that whatever a killed keeper left can be found.
//! The folder of sockets is elsewhere because the path of a socket has at most 107 bytes.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use super::keeper::{self, KEEPER};
use super::remains;
use crate::{needs, process};

/// For the engine to answer after its start.
const START: Duration = Duration::from_secs(90);
/// For the engine to be gone after its last user has left.
const END: Duration = Duration::from_secs(60);

/// A share in the private engine. The kernel gives it back if xtask is killed.
pub struct Lease {
    stream: UnixStream,
}

/// Takes a share in the engine whose data is in `folder`; starts it first, for the group if there is one, if it does not run.
pub fn join(folder: &Path, group: Option<&str>) -> Result<(String, Lease)> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    let start = open(&folder.join("start.lock"))?;
    let _starting =
        needs::lock(start, START + END).context("wait for another xtask that starts the engine")?;
    if let Some(joined) = join_running(&folder)? {
        return Ok(joined);
    }
    remove_leftovers(&folder)?;
    let (host, lease) = start_keeper(&folder, group)?;
    let started = match group {
        Some(group) => format!("started a private container engine for group {group}"),
        None if nix::unistd::geteuid().is_root() => {
            "no container engine answers: started a private one".to_owned()
        }
        None => "no container engine answers: started a private rootless one".to_owned(),
    };
    eprintln!(
        "xtask: {started}, DOCKER_HOST={host}, data in {}",
        folder.display()
    );
    Ok((host, lease))
}

/// Removes what an engine with its data in `folder` left when its keeper was killed.
pub fn remove_leftovers(folder: &Path) -> Result<()> {
    let folder = match folder.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        found => found.with_context(|| format!("find {}", folder.display()))?,
    };
    // A keeper that is about to end holds its lock until all of its engine is gone.
    drop(needs::lock(open(&folder.join(keeper::LOCK))?, END).context("wait for the private engine to end")?);
    remains::remove(&folder)
}

fn join_running(folder: &Path) -> Result<Option<(String, Lease)>> {
    let Some(runtime) = remains::recorded(folder)? else {
        return Ok(None);
    };
    let Ok(stream) = UnixStream::connect(runtime.join(keeper::SOCKET)) else {
        return Ok(None);
    };
    let lease = Lease { stream };
    // Whoever comes just as the keeper ends gets no answer, and starts another one.
    match lease.ready() {
        Ok(host) => {
            eprintln!("xtask: share the private container engine that runs already, DOCKER_HOST={host}");
            Ok(Some((host, lease)))
        }
        Err(_) => Ok(None),
    }
}

fn start_keeper(folder: &Path, group: Option<&str>) -> Result<(String, Lease)> {
    let runtime = runtime_path(group)?;
    remains::record(folder, &runtime)?;
    // The way to a group's socket is open to all, so that the socket itself decides who may use it.
    let mode = if group.is_some() { 0o711 } else { 0o700 };
    DirBuilder::new()
        .mode(mode)
        .create(&runtime)
        .with_context(|| format!("create {}", runtime.display()))?;
    let (ours, theirs) = UnixStream::pair().context("make a socket pair")?;
    let log = File::create(folder.join(keeper::LOG)).context("create the log of the engine")?;
    // The running executable, even if its file was replaced by now. It outlives xtask, so it is no `process::run`.
    let mut keeper = process::command("/proc/self/exe")
        .arg(KEEPER)
        .args([folder, &runtime])
        .args(group)
        .current_dir("/")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start the keeper of the engine")?;
    thread::spawn(move || keeper.wait());
    let lease = Lease { stream: ours };
    let host = lease.ready()?;
    Ok((host, lease))
}

/// A name that does not exist yet, in the user's folder for sockets, else, or where others have to get at it, in /tmp.
fn runtime_path(group: Option<&str>) -> Result<PathBuf> {
    let own = |folder: &PathBuf| {
        fs::metadata(folder).is_ok_and(|meta| meta.uid() == nix::unistd::geteuid().as_raw())
    };
    let parent = env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|folder| group.is_none() && folder.is_absolute() && own(folder));
    let nanoseconds = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    let name = format!("alpy-{}-{nanoseconds:x}", std::process::id());
    let path = parent.unwrap_or_else(|| "/tmp".into()).join(&name);
    // containerd's sockets are deepest: exec/containerd/containerd-debug.sock.
    Ok(if path.as_os_str().len() > 50 {
        Path::new("/tmp").join(name)
    } else {
        path
    })
}

fn open(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    file.with_context(|| format!("open {}", path.display()))
}

impl Lease {
    /// Waits for the keeper's first line: the engine's address, or why there is none.
    fn ready(&self) -> Result<String> {
        self.stream.set_read_timeout(Some(START))?;
        let mut line = String::new();
        BufReader::new(&self.stream)
            .read_line(&mut line)
            .context("wait for the private engine")?;
        match line.trim_end().split_once(' ') {
            Some(("ready", host)) => Ok(host.to_owned()),
            Some(("failed", why)) => bail!("the private engine does not start: {}", why.replace('\t', "\n")),
            _ => bail!("the keeper of the private engine has ended"),
        }
    }

    /// Gives the share back. The last one to do so waits until the engine is gone.
    pub fn release(self) -> Result<()> {
        self.close()
    }

    fn close(&self) -> Result<()> {
        (&self.stream)
            .write_all(b"bye\n")
            .context("leave the private engine")?;
        self.stream.set_read_timeout(Some(END))?;
        // The keeper closes a connection at once while others remain, and the last one by ending.
        let mut rest = Vec::new();
        (&self.stream)
            .read_to_end(&mut rest)
            .context("wait for the private engine to end")?;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // After `release` the other end is closed, and the error says just that.
        let _ = self.close();
    }
}
