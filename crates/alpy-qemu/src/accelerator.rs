// SPDX-License-Identifier: GPL-3.0-or-later
//! What executes the guest's instructions: chosen by proof.

mod memory;
mod proof;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::debug;

use crate::error::{Error, Result};
use memory::Memory;
use proof::Proof;

/// What executes the guest's instructions, and why it was chosen.
///
/// `/dev/kvm` that opens does not prove that a guest runs: on some nested hosts it dies or crawls. So
/// [`detect`](Self::detect) lets a tiny guest run first, and remembers the outcome.
///
/// As text it is one line for a log: `TCG (/dev/kvm: Permission denied)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accelerator {
    kind: Kind,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// KVM, without proof.
    pub fn kvm() -> Self {
        Self::new(Kind::Kvm, "chosen by the caller")
    }

    /// TCG, QEMU's own translator. It runs everywhere.
    pub fn tcg() -> Self {
        Self::new(Kind::Tcg, "chosen by the caller")
    }

    /// KVM if a guest runs under it, else TCG.
    ///
    /// `ALPY_ACCEL=kvm` or `ALPY_ACCEL=tcg` in the environment decides without proof. Otherwise, if `/dev/kvm` opens, a guest
    /// of 512 bytes goes from real to long mode under KVM and counts to ten million, for which it has 3 s; elsewhere it takes
    /// 0.2 s. The outcome is remembered in `$XDG_CACHE_HOME/alpy` until the next boot, or a change of QEMU or of the access to
    /// `/dev/kvm`.
    ///
    /// Cancel safe: the guest is killed.
    ///
    /// # Errors
    /// [`Error::UnknownAccelerator`] and [`Error::KvmUnusable`], of `ALPY_ACCEL`. [`Error::ProgramMissing`],
    /// [`Error::Spawn`].
    pub async fn detect(program: impl AsRef<Path>) -> Result<Self> {
        let detection = Detection {
            program: program.as_ref(),
            demand: env::var_os("ALPY_ACCEL"),
            device: Path::new("/dev/kvm"),
            memory: memory::default_file(),
            time_limit: Duration::from_secs(3),
        };
        detection.run().await
    }

    /// The name as `-accel` takes it: `kvm` or `tcg`.
    pub fn name(&self) -> &'static str {
        match self.kind {
            Kind::Kvm => "kvm",
            Kind::Tcg => "tcg",
        }
    }

    /// Why it was chosen, in one line.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name().to_uppercase(), self.reason)
    }
}

/// A choice and all that it depends on.
struct Detection<'a> {
    program: &'a Path,
    demand: Option<OsString>,
    device: &'a Path,
    memory: Option<PathBuf>,
    time_limit: Duration,
}

impl Detection<'_> {
    async fn run(&self) -> Result<Accelerator> {
        match self
            .demand
            .as_ref()
            .map(|value| value.to_string_lossy())
            .as_deref()
        {
            None | Some("") => {}
            Some("tcg") => return Ok(Accelerator::new(Kind::Tcg, "ALPY_ACCEL=tcg")),
            Some("kvm") => {
                return match self.open() {
                    Ok(_) => Ok(Accelerator::new(Kind::Kvm, "ALPY_ACCEL=kvm")),
                    Err(source) => Err(Error::KvmUnusable {
                        device: self.device.to_owned(),
                        source,
                    }),
                };
            }
            Some(value) => {
                return Err(Error::UnknownAccelerator {
                    value: value.to_owned(),
                });
            }
        }
        if let Err(error) = self.open() {
            return Ok(Accelerator::new(
                Kind::Tcg,
                format!("{}: {error}", self.device.display()),
            ));
        }
        let memory = self
            .memory
            .as_ref()
            .and_then(|file| Memory::new(file.clone(), self.program));
        if let Some(remembered) = memory.as_ref().and_then(Memory::recall) {
            debug!(%remembered, "accelerator remembered");
            return Ok(remembered);
        }
        let accelerator = match proof::run(self.program, Kind::Kvm, self.time_limit).await? {
            Proof::Ran(took) => {
                Accelerator::new(Kind::Kvm, format!("a test guest ran under KVM in {took:.2?}"))
            }
            Proof::Failed(failure) => {
                Accelerator::new(Kind::Tcg, format!("a test guest failed under KVM: {failure}"))
            }
        };
        if let Some(memory) = &memory {
            memory.keep(&accelerator);
        }
        Ok(accelerator)
    }

    fn open(&self) -> io::Result<File> {
        File::options().read(true).write(true).open(self.device)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const QEMU: &str = "qemu-system-x86_64";

    fn detection<'a>(program: &'a str, device: &'a str) -> Detection<'a> {
        Detection {
            program: Path::new(program),
            demand: None,
            device: Path::new(device),
            memory: None,
            time_limit: Duration::from_secs(3),
        }
    }

    #[tokio::test]
    async fn obeys_the_environment() {
        let demand = |value: &str, device| Detection {
            demand: Some(value.into()),
            ..detection("no-such-qemu", device)
        };
        let tcg = demand("tcg", "/dev/null").run().await.unwrap();
        assert_eq!(tcg.to_string(), "TCG (ALPY_ACCEL=tcg)");
        let kvm = demand("kvm", "/dev/null").run().await.unwrap();
        assert_eq!(kvm.to_string(), "KVM (ALPY_ACCEL=kvm)");
    }

    #[tokio::test]
    async fn refuses_what_the_environment_cannot_have() {
        let demand = |value: &str| Detection {
            demand: Some(value.into()),
            ..detection("no-such-qemu", "/no/such/kvm")
        };
        let error = demand("xen").run().await.unwrap_err().to_string();
        assert!(
            error.starts_with("ALPY_ACCEL=\"xen\" is no accelerator"),
            "{error}"
        );
        let error = demand("kvm").run().await.unwrap_err().to_string();
        assert_eq!(error, "ALPY_ACCEL=kvm, but /no/such/kvm cannot be opened");
    }

    #[tokio::test]
    async fn takes_an_empty_demand_for_none() {
        let detection = Detection {
            demand: Some("".into()),
            ..detection("no-such-qemu", "/no/such/kvm")
        };
        assert_eq!(detection.run().await.unwrap().name(), "tcg");
    }

    #[tokio::test]
    async fn needs_no_proof_where_there_is_no_device() {
        let chosen = detection("no-such-qemu", "/no/such/kvm").run().await.unwrap();
        assert_eq!(
            chosen.to_string(),
            "TCG (/no/such/kvm: No such file or directory (os error 2))"
        );
    }

    #[tokio::test]
    async fn names_the_package_of_a_missing_qemu() {
        let error = detection("no-such-qemu", "/dev/null").run().await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "no-such-qemu is not installed; remedy: sudo apt-get install qemu-system-x86"
        );
    }

    #[tokio::test]
    async fn falls_back_to_tcg_and_remembers_why() {
        // `false` ends at once, as a QEMU would whose KVM refuses.
        let folder = tempfile::tempdir().unwrap();
        let detection = Detection {
            memory: Some(folder.path().join("accelerator")),
            ..detection("false", "/dev/null")
        };
        let first = detection.run().await.unwrap();
        assert_eq!(
            first.to_string(),
            "TCG (a test guest failed under KVM: exit status: 1, nothing on stderr)"
        );
        let second = detection.run().await.unwrap();
        assert_eq!(second.reason(), format!("{}; remembered", first.reason()));
    }

    #[tokio::test]
    async fn proves_again_when_the_memory_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("accelerator");
        fs::write(&file, "kvm").unwrap();
        let detection = Detection {
            memory: Some(file),
            ..detection("false", "/dev/null")
        };
        let chosen = detection.run().await.unwrap();
        assert_eq!(chosen.name(), "tcg");
        assert!(!chosen.reason().contains("remembered"), "{chosen}");
    }

    #[tokio::test]
    async fn chooses_by_proof_within_its_time() {
        alpy_need::need!(qemu);
        // Which one it is depends on this machine; that there is an answer does not.
        let begin = std::time::Instant::now();
        let chosen = detection(QEMU, "/dev/kvm").run().await.unwrap();
        println!("{chosen}");
        assert!(begin.elapsed() < Duration::from_secs(10), "{chosen}");
    }
}
