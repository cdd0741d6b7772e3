// SPDX-License-Identifier: GPL-3.0-or-later
//! The network interfaces of a running machine: those that come and go, and whether QEMU captures to their files yet.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use alpy_qmp::ErrorClass;
use alpy_qmp::commands::{Closefd, Getfd, NetdevDel};

use super::Qemu;
use crate::error::{Error, Result};
use crate::evidence;
use crate::nic::Nic;

/// The network interfaces that the machine has had.
#[derive(Debug)]
pub(super) struct Nics {
    pub(super) count: usize,
    pub(super) captures: Vec<Captured>,
}

#[derive(Debug)]
pub(super) struct Captured {
    nic: usize,
    path: PathBuf,
    /// Whether QEMU had it open when it was about to close it, with the interface or at its own end. Until then nothing.
    complete: Option<bool>,
}

impl Captured {
    /// That of an interface, if it has one: its file, made or emptied.
    pub(super) fn of(nic: usize, of: &Nic) -> Option<Result<Self>> {
        let path = of.capture_path()?.to_owned();
        // QEMU would follow a symbolic link.
        Some(evidence::create(&path).map(|_| Self {
            nic,
            path,
            complete: None,
        }))
    }
}

impl Qemu {
    /// Plugs one more network interface in, whether the CPUs run or not, and gives its number: `nicN` on `linkN`. It has no boot ROM.
    ///
    /// A machine of the type `pc`, the default, takes it on its first bus; one of the type `q35` has no place for it there.
    ///
    /// Not cancel safe: its backend may stay.
    ///
    /// # Errors
    /// [`Error::Qmp`] with what QEMU says against it; nothing of it stays then. [`Error::Evidence`] for a capture that cannot be made.
    pub async fn plug_nic(&self, nic: Nic) -> Result<usize> {
        let when = |source| Error::Qmp {
            when: "when a network interface was plugged in",
            source,
        };
        let index = {
            let mut nics = self.nics();
            nics.count += 1;
            nics.count - 1
        };
        let capture = Captured::of(index, &nic).transpose()?;
        if let Some(Captured { path, .. }) =
            capture.as_ref().filter(|capture| capture.path.to_str().is_none())
        {
            return Err(Error::Evidence {
                path: path.clone(),
                source: io::Error::other("QMP takes names in UTF-8 alone"),
            });
        }
        let fdname = format!("link{index}");
        let (netdev, dump, device) = nic.additions(index, self.nic_model, &fdname);
        let descriptor = nic.into_descriptor();
        let plug = async {
            if let Some(descriptor) = descriptor {
                let fdname = fdname.clone();
                self.qmp.execute(Getfd { fdname }).descriptor(descriptor).await?;
            }
            if let Err(error) = self.qmp.execute(netdev).await {
                // Whether it was there matters less than what QEMU said.
                let fdname = fdname.clone();
                let _ = self.qmp.execute(Closefd { fdname }).await;
                return Err(error);
            }
            let rest = async {
                if let Some(dump) = dump {
                    self.qmp.execute(dump).await?;
                }
                self.qmp.execute(device).await
            };
            if let Err(error) = rest.await {
                let _ = self.qmp.execute(NetdevDel { id: fdname.clone() }).await;
                return Err(error);
            }
            Ok(())
        };
        match plug.await {
            Ok(()) => {
                self.nics().captures.extend(capture);
                Ok(index)
            }
            Err(error) => {
                if let Some(Captured { path, .. }) = capture {
                    let _ = fs::remove_file(path);
                }
                Err(when(error))
            }
        }
    }

    /// Pulls a network interface out: asks the guest to let it go, waits until it has, and closes its backend and its capture.
    ///
    /// Not cancel safe: the guest stays asked. It can be called again, also when the guest has let go in the meantime.
    ///
    /// # Errors
    /// [`Error::Qmp`], also if the guest does not let go within `timeout`, as one whose CPUs do not run.
    pub async fn unplug_nic(&self, index: usize, timeout: Duration) -> Result<()> {
        let when = |source| Error::Qmp {
            when: "when a network interface was pulled out",
            source,
        };
        match self.qmp.unplug(&format!("nic{index}"), timeout).await {
            Err(alpy_qmp::Error::Server(error)) if error.class == ErrorClass::DeviceNotFound => {}
            result => result.map_err(when)?,
        }
        self.before_closing(|nic| nic == index);
        let id = format!("link{index}");
        self.qmp.execute(NetdevDel { id }).await.map_err(when)?;
        Ok(())
    }

    /// The captures that are not complete, because QEMU could not write to them, on a full disk for example. It then says one
    /// line on stderr, gives the capture up and goes on, so nobody else will tell. After [`quit`](Self::quit) the answer is
    /// final.
    ///
    /// If it is not known which ones were given up, it is all.
    pub fn incomplete_captures(&self) -> Vec<PathBuf> {
        let errors = self.process.dump_errors();
        if errors == 0 {
            return Vec::new();
        }
        let is_open = self.is_open();
        let nics = self.nics();
        let incomplete: Vec<_> = nics
            .captures
            .iter()
            .filter(|capture| !capture.complete.unwrap_or_else(|| is_open(&capture.path)))
            .map(|capture| capture.path.clone())
            .collect();
        if incomplete.len() < errors {
            return nics.captures.iter().map(|capture| capture.path.clone()).collect();
        }
        incomplete
    }

    fn nics(&self) -> MutexGuard<'_, Nics> {
        self.nics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes down whether captures are open that are about to be closed in order.
    pub(super) fn before_closing(&self, of: impl Fn(usize) -> bool) {
        let is_open = self.is_open();
        let mut nics = self.nics();
        for capture in nics.captures.iter_mut().filter(|capture| of(capture.nic)) {
            capture.complete.get_or_insert_with(|| is_open(&capture.path));
        }
    }

    /// Whether QEMU has a file open, as it is now.
    fn is_open(&self) -> impl Fn(&Path) -> bool {
        let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        let open: HashSet<_> = descriptors
            .into_iter()
            .flatten()
            .filter_map(|entry| identity(&entry.ok()?.path()).ok())
            .collect();
        move |path| identity(path).is_ok_and(|file| open.contains(&file))
    }
}
