// SPDX-License-Identifier: GPL-3.0-or-later
//! Saved states of machines: where they are, which one is good, and who may build, use or remove one.
//!
//! A state is a folder named after its key. Its lock, a file beside it, is held shared by whoever looks at it and loads it, and exclusively by
//! whoever builds or removes it; the kernel gives it back when its holder ends in whatever way. A folder gets its name when it is whole,
//! and its manifest is written last.

mod manifest;

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use alpy_qemu::Checksum;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::statvfs::statvfs;
use tokio::sync::oneshot;
use tracing::{Span, debug};

pub(crate) use manifest::Manifest;

use crate::error::{Error, Result};

/// How large all states may be together, in MiB.
const LIMIT_MIB: u64 = 2048;

/// Begins the name of the folder of a state that is being built.
const UNFINISHED: &str = "tmp-";

/// Where saved states are kept, and how many; see [the guide](crate::guide::saved_states).
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct SavedStates {
    place: std::result::Result<PathBuf, String>,
    limit_mib: u64,
}

impl SavedStates {
    /// None is used or made: each machine boots.
    pub fn off() -> Self {
        Self::because("switched off by the test")
    }

    /// They are in this folder, which is made if it is not there, for this user alone.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            place: Ok(folder.into()),
            limit_mib: LIMIT_MIB,
        }
    }

    /// How large all of them may be together, in MiB: 2048 unless set. Those that were not used for the longest time go, but none that
    /// is in use.
    pub fn limit_mib(mut self, limit: u64) -> Self {
        self.limit_mib = limit;
        self
    }

    /// As the environment has it: `ALPY_SAVED_STATES=off`, else the folder `ALPY_STATES_DIR`, else `alpy/states` in
    /// `$XDG_CACHE_HOME` or `~/.cache`, and `ALPY_STATES_LIMIT_MIB`.
    ///
    /// # Errors
    /// [`Error::Environment`] for a value that is none.
    pub fn from_env() -> Result<Self> {
        Self::from(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        // A value of other bytes than UTF-8 is right nowhere but in a path.
        let text = |name| variable(name).map(|value| value.to_string_lossy().into_owned());
        let bad = |name, value: String, remedy| Error::Environment { name, value, remedy };
        match text("ALPY_SAVED_STATES").as_deref() {
            None | Some("on") => {}
            Some("off") => return Ok(Self::because("ALPY_SAVED_STATES=off")),
            Some(value) => return Err(bad("ALPY_SAVED_STATES", value.to_owned(), "on or off")),
        }
        let limit_mib = match text("ALPY_STATES_LIMIT_MIB") {
            None => LIMIT_MIB,
            Some(value) => value
                .parse()
                .map_err(|_| bad("ALPY_STATES_LIMIT_MIB", value, "a number of MiB, such as 2048"))?,
        };
        let absolute = |name| {
            variable(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let cache = || absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        let place = match (variable("ALPY_STATES_DIR"), cache()) {
            (Some(folder), _) => Ok(folder.into()),
            (None, Some(cache)) => in_cache(&cache),
            (None, None) => Err("neither ALPY_STATES_DIR nor HOME is set".to_owned()),
        };
        Ok(Self { place, limit_mib })
    }

    fn because(reason: impl Into<String>) -> Self {
        Self {
            place: Err(reason.into()),
            limit_mib: LIMIT_MIB,
        }
    }

    /// The folder, ready to be used; else why there is none, and machines boot.
    pub(crate) fn open(&self) -> std::result::Result<Store, String> {
        let folder = self.place.clone()?;
        prepare(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        // QEMU and its images are told of it from other folders.
        let folder = std::path::absolute(&folder).unwrap_or(folder);
        Ok(Store {
            folder,
            limit: self.limit_mib << 20,
        })
    }
}

/// The cache is made if need be, but not the folder that it is in: a home that does not exist stays so.
fn in_cache(cache: &Path) -> std::result::Result<PathBuf, String> {
    match cache.parent().filter(|home| !home.is_dir()) {
        Some(home) => Err(format!(
            "{} is not a directory; remedy: create it, or set ALPY_STATES_DIR",
            home.display()
        )),
        None => Ok(cache.join("alpy/states")),
    }
}

fn prepare(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::metadata(folder)?;
    if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        // The memory of a guest may hold secrets, and whoever can change a state decides what a test sees.
        return Err(io::Error::other(
            "it is open to other users; remedy: chmod 700, or another one",
        ));
    }
    Ok(())
}

/// The folder of all states.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
    limit: u64,
}

/// A state that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    name: String,
    fingerprint: String,
}

/// A state that is good, and stays so while this is held.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) folder: PathBuf,
    pub(crate) manifest: Manifest,
    _lock: Lock,
}

/// A state that is being built. What is not finished is removed.
#[derive(Debug)]
pub(crate) struct Unfinished {
    folder: PathBuf,
    key: Key,
    lock: Option<Lock>,
}

#[derive(Debug)]
pub(crate) struct Lock(Flock<File>);

impl Key {
    pub(crate) fn new(fingerprint: String) -> Self {
        Self {
            name: Checksum::of(fingerprint.as_bytes()).to_string(),
            fingerprint,
        }
    }

    /// The first digits, for people.
    pub(crate) fn short(&self) -> &str {
        &self.name[..8]
    }
}

impl Store {
    /// The file that remembers checksums.
    pub(crate) fn checksums(&self) -> PathBuf {
        self.folder.join("checksums")
    }

    /// The state, if it is there and good, and nobody has it for himself.
    pub(crate) async fn look(&self, key: &Key) -> Result<Option<Held>> {
        let (this, key) = (self.clone(), key.clone());
        on_thread(move || {
            let Some(lock) = this.lock(&key.name, FlockArg::LockSharedNonblock)? else {
                return Ok(None);
            };
            let manifest = this.verify(&key).ok();
            Ok(manifest.map(|manifest| this.held(&key, manifest, lock)))
        })
        .await
    }

    /// Waits until nobody uses or builds the state, and has it for itself.
    ///
    /// Cancel safe.
    pub(crate) async fn lock_alone(&self, key: &Key) -> Result<Lock> {
        let (this, key) = (self.clone(), key.clone());
        on_thread(move || {
            this.lock(&key.name, FlockArg::LockExclusive)
                .map(|lock| lock.expect("it was waited for"))
        })
        .await
    }

    /// Looks at a state under a lock that is held.
    pub(crate) async fn look_with(
        &self,
        key: &Key,
        lock: Lock,
    ) -> Result<std::result::Result<Held, (Lock, String)>> {
        let (this, key) = (self.clone(), key.clone());
        on_thread(move || {
            Ok(match this.verify(&key) {
                Ok(manifest) => Ok(this.held(&key, manifest, lock)),
                Err(reason) => Err((lock, reason)),
            })
        })
        .await
    }

    /// The name for a state that a run is about to build.
    pub(crate) fn unfinished_name(&self, key: &Key, run: &str) -> PathBuf {
        self.folder.join(format!("{UNFINISHED}{}-{run}", key.name))
    }

    /// Begins to build a state of so many bytes under this name.
    pub(crate) fn begin(&self, key: &Key, folder: PathBuf, bytes: u64, lock: Lock) -> Result<Unfinished> {
        // On a full disk, a write to the memory of a machine, which is a file, kills QEMU.
        let system = statvfs(&self.folder).map_err(|error| self.failed(error.into()))?;
        let free = system.blocks_available() * system.fragment_size();
        // Others that are being built at this moment, of machines such as this one, are still to grow.
        let others = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let unfinished = others.filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED));
        let promised: u64 = unfinished
            .map(|entry| bytes.saturating_sub(size(&entry.path())))
            .sum();
        if free < bytes + promised {
            let reason = format!(
                "{} MiB are free there, and a state may take {}, and those that are being built {} more",
                free >> 20,
                bytes >> 20,
                promised >> 20
            );
            return Err(self.failed(io::Error::new(io::ErrorKind::StorageFull, reason)));
        }
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.map_err(|source| self.failed(source))?;
        Ok(Unfinished {
            folder,
            key: key.clone(),
            lock: Some(lock),
        })
    }

    /// Makes a state of what was built, and room for it.
    ///
    /// Not cancel safe: it may be there then or not.
    pub(crate) async fn finish(&self, mut built: Unfinished, qemu: String) -> Result<Held> {
        let this = self.clone();
        on_thread(move || {
            let manifest = Manifest::write(&built.folder, &built.key.fingerprint, qemu);
            let manifest = manifest.map_err(|source| this.failed(source))?;
            let target = this.folder.join(&built.key.name);
            remove(&target)
                .and_then(|()| fs::rename(&built.folder, &target))
                .map_err(|source| this.failed(source))?;
            let lock = built.lock.take().expect("it is taken here alone");
            let held = this.held(&built.key, manifest, lock);
            this.make_room(&built.key.name);
            Ok(held)
        })
        .await
    }

    /// Removes a state that is of no use after all, so that the next one to ask builds it.
    pub(crate) fn discard(&self, held: &Held) {
        // Its lock may be shared with others, who have loaded it or will find it gone.
        if let Err(error) = remove(&held.folder) {
            debug!(%error, "the state is not removed");
        }
    }

    fn verify(&self, key: &Key) -> std::result::Result<Manifest, String> {
        let folder = self.folder.join(&key.name);
        if !folder.exists() {
            return Err("there is none yet".to_owned());
        }
        Manifest::verify(&folder, &key.fingerprint)
    }

    fn held(&self, key: &Key, manifest: Manifest, lock: Lock) -> Held {
        // Whoever waits for the same state may begin with it too.
        if let Err(error) = lock.0.relock(FlockArg::LockSharedNonblock) {
            debug!(%error, "the state stays locked for others");
        }
        // Tells when it was used last.
        if let Err(error) = lock.0.set_modified(SystemTime::now()) {
            debug!(%error, "the time of use is not kept");
        }
        Held {
            folder: self.folder.join(&key.name),
            manifest,
            _lock: lock,
        }
    }

    fn lock(&self, name: &str, how: FlockArg) -> Result<Option<Lock>> {
        let path = self.folder.join(format!("{name}.lock"));
        loop {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
                .open(&path)
                .map_err(|source| self.failed(source))?;
            let lock = match Flock::lock(file, how) {
                Ok(lock) => lock,
                Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, Errno::EINTR)) => continue,
                Err((_, error)) => return Err(self.failed(error.into())),
            };
            // Whoever removes a state removes its lock too: one that has no name any more locks nothing.
            let locked = lock.metadata().map_err(|source| self.failed(source))?;
            if fs::metadata(&path)
                .is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino()))
            {
                return Ok(Some(Lock(lock)));
            }
        }
    }

    /// Removes what builders have left that were killed, and then states until all fit, but not `keep`.
    fn make_room(&self, keep: &str) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let (mut states, mut total) = (Vec::new(), 0);
        for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let path = self.folder.join(&name);
            if let Some(key) = name
                .strip_prefix(UNFINISHED)
                .and_then(|rest| rest.split('-').next())
            {
                // With its builder alive it is locked. Of the kept one, whose lock is held, it is somebody else's.
                let dead = key == keep || self.try_alone(key).is_some();
                let removed = if dead { remove(&path) } else { Ok(()) };
                if let Err(error) = removed {
                    debug!(%error, name, "what a builder left is not removed");
                }
            } else if path.is_dir() {
                let size = size(&path);
                total += size;
                let used =
                    fs::metadata(self.folder.join(format!("{name}.lock"))).and_then(|lock| lock.modified());
                states.push((used.unwrap_or(SystemTime::UNIX_EPOCH), name, size));
            }
        }
        states.sort();
        for (_, name, size) in states {
            if total <= self.limit {
                break;
            }
            if name == keep {
                continue;
            }
            let Some(_lock) = self.try_alone(&name) else {
                continue;
            };
            let removed = remove(&self.folder.join(&name))
                .and_then(|()| fs::remove_file(self.folder.join(format!("{name}.lock"))));
            match removed {
                Ok(()) => {
                    debug!(name, "removed a saved state, to have room");
                    total -= size;
                }
                Err(error) => debug!(%error, name, "a state is not removed"),
            }
        }
    }

    fn try_alone(&self, name: &str) -> Option<Lock> {
        self.lock(name, FlockArg::LockExclusiveNonblock).ok().flatten()
    }

    pub(crate) fn failed(&self, source: io::Error) -> Error {
        Error::SavedStates {
            folder: self.folder.clone(),
            source,
        }
    }
}

impl Unfinished {
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // One that is finished has no such name any more.
        if let Err(error) = remove(&self.folder) {
            debug!(%error, "what was built is not removed");
        }
    }
}

/// Removes a folder, which need not be there.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the files of a folder take on the disk, in bytes. The memory of a guest has holes.
fn size(folder: &Path) -> u64 {
    let files = fs::read_dir(folder).into_iter().flatten();
    files
        .filter_map(|file| Some(file.ok()?.metadata().ok()?.blocks() * 512))
        .sum()
}

/// Does something that blocks, for ever perhaps, in a thread that nobody waits for at the end of a runtime.
pub(crate) async fn on_thread<T: Send + 'static>(
    act: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, doing) = oneshot::channel();
    let span = Span::current();
    let thread = std::thread::Builder::new().name("alpy-states".to_owned());
    // If nobody listens any more, what was got is given back: a lock, for example.
    let spawned = thread.spawn(move || drop(done.send(span.in_scope(act))));
    spawned.map_err(Error::Runtime)?;
    match doing.await {
        Ok(result) => result,
        Err(_) => Err(Error::Runtime(io::Error::other("a thread has panicked"))),
    }
}

#[cfg(test)]
mod tests;
