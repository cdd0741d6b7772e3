// SPDX-License-Identifier: GPL-3.0-or-later
//! The outcome of the last proof, in a file, with all that it depends on.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use tracing::debug;

use super::{Accelerator, Kind};
use crate::process;

/// Where the outcome is remembered (XDG Base Directory Specification); `None` for a user without a home.
pub(super) fn default_file() -> Option<PathBuf> {
    file_in(|name| env::var_os(name).map(PathBuf::from))
}

/// The cache is made if need be, but not the folder that it is in: a home that does not exist stays so.
fn file_in(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .filter(|cache| cache.parent().is_some_and(Path::is_dir))
        .map(|cache| cache.join("alpy/accelerator"))
}

pub(super) struct Memory {
    file: PathBuf,
    key: String,
}

impl Memory {
    /// `None` where not all that the outcome depends on can be told.
    pub(super) fn new(file: PathBuf, program: &Path) -> Option<Self> {
        // Another kernel, another host: another boot. Another QEMU: another file at the path, or another path.
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let program = process::find(program)?;
        let metadata = fs::metadata(&program).ok()?;
        let key = format!(
            "proof 1, boot {}, user {}, {program:?} of {} bytes from {}.{:09}",
            boot.trim_end(),
            Uid::effective(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        Some(Self { file, key })
    }

    pub(super) fn recall(&self) -> Option<Accelerator> {
        let text = fs::read_to_string(&self.file).ok()?;
        let text = text.strip_prefix(&self.key)?.strip_prefix('\n')?;
        // The end of line says that the file is whole.
        let (name, reason) = text.strip_suffix('\n')?.split_once(' ')?;
        let kind = match name {
            "kvm" => Kind::Kvm,
            "tcg" => Kind::Tcg,
            _ => return None,
        };
        Some(Accelerator::new(kind, format!("{reason}; remembered")))
    }

    /// Remembers, if it can: whoever cannot write here proves again.
    pub(super) fn keep(&self, accelerator: &Accelerator) {
        let folder = self.file.parent().unwrap_or(Path::new("/"));
        let reason = accelerator.reason().replace('\n', " ");
        let text = format!("{}\n{} {reason}\n", self.key, accelerator.name());
        if let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::write(&self.file, text)) {
            debug!(file = %self.file.display(), %error, "accelerator not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_no_home_that_does_not_exist() {
        let home = tempfile::tempdir().unwrap();
        let of =
            |name: &'static str, value: PathBuf| file_in(move |asked| (asked == name).then(|| value.clone()));
        let absent = home.path().join("absent");
        assert_eq!(of("HOME", absent.clone()), None);
        assert_eq!(of("XDG_CACHE_HOME", absent.join(".cache")), None);
        let file = Some(home.path().join(".cache/alpy/accelerator"));
        assert_eq!(of("HOME", home.path().to_owned()), file);
        assert_eq!(of("XDG_CACHE_HOME", home.path().join(".cache")), file);
    }

    fn memory(folder: &Path, program: &Path) -> Memory {
        Memory::new(folder.join("cache/alpy/accelerator"), program).unwrap()
    }

    #[test]
    fn gives_back_what_it_kept() {
        let folder = tempfile::tempdir().unwrap();
        let memory = memory(folder.path(), Path::new("sh"));
        assert_eq!(memory.recall(), None);
        memory.keep(&Accelerator::new(Kind::Kvm, "it ran\ntwice"));
        let expected = Accelerator::new(Kind::Kvm, "it ran twice; remembered");
        assert_eq!(memory.recall(), Some(expected));
    }

    #[test]
    fn forgets_when_the_program_changes() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("qemu");
        fs::write(&program, "one").unwrap();
        memory(folder.path(), &program).keep(&Accelerator::tcg());
        assert!(memory(folder.path(), &program).recall().is_some());
        fs::write(&program, "three").unwrap();
        assert_eq!(memory(folder.path(), &program).recall(), None);
    }

    #[test]
    fn takes_a_damaged_file_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let memory = memory(folder.path(), Path::new("sh"));
        memory.keep(&Accelerator::tcg());
        let whole = fs::read(&memory.file).unwrap();
        for end in 0..whole.len() {
            fs::write(&memory.file, &whole[..end]).unwrap();
            assert_eq!(memory.recall(), None, "cut after {end} bytes");
        }
        fs::write(&memory.file, b"\xff\0garbage").unwrap();
        assert_eq!(memory.recall(), None);
    }

    #[test]
    fn knows_no_program_that_is_not_there() {
        assert!(Memory::new("file".into(), Path::new("no-such-program")).is_none());
    }
}
