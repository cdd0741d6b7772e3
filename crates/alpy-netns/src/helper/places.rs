// SPDX-License-Identifier: GPL-3.0-or-later
//! Network namespaces: found before anything is touched, and entered by threads of their own.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::kill;
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use crate::Namespace;

// NS_GET_NSTYPE, _IO(0xb7, 0x3) in linux/nsfs.h: the kind of namespace as a CLONE_ flag.
nix::ioctl_none_bad!(ns_get_nstype, 0xb703);

/// A namespace that is there.
pub(super) enum Place {
    /// Open, which keeps it there.
    Open(OwnedFd),
    /// Of a process that runs, but whose namespace may not be opened: that needs `CAP_SYS_PTRACE`, a move into it does not.
    Process(u32),
}

impl Place {
    pub(super) fn find(namespace: &Namespace, passed: &[OwnedFd]) -> Result<Self, String> {
        match namespace {
            Namespace::Path(path) => match File::open(path) {
                Ok(file) => network(file.into()),
                Err(error) => Err(error.to_string()),
            },
            Namespace::Pid(pid) => match File::open(format!("/proc/{pid}/ns/net")) {
                Ok(file) => network(file.into()),
                Err(error) if error.kind() == ErrorKind::PermissionDenied && runs(*pid) => {
                    Ok(Self::Process(*pid))
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    Err("there is no such process".to_owned())
                }
                Err(error) => Err(error.to_string()),
            },
            Namespace::Passed(index) => match passed.get(*index) {
                Some(descriptor) => network(descriptor.try_clone().map_err(|error| error.to_string())?),
                None => Err(format!("{} descriptors were passed", passed.len())),
            },
        }
        .map_err(|reason| format!("no network namespace {namespace}: {reason}"))
    }

    /// What tells it from other namespaces, where that is known: its inode's number.
    pub(super) fn number(&self) -> Option<u64> {
        match self {
            Self::Open(descriptor) => fstat(descriptor).ok().map(|stat| stat.st_ino),
            Self::Process(_) => None,
        }
    }

    /// Has a message move its link here.
    pub(super) fn as_target_of(
        &self,
        message: LinkMessageBuilder<LinkUnspec>,
    ) -> LinkMessageBuilder<LinkUnspec> {
        match self {
            Self::Open(descriptor) => message.setns_by_fd(descriptor.as_raw_fd()),
            Self::Process(pid) => message.setns_by_pid(*pid),
        }
    }
}

/// The namespace that this process works in.
pub(super) fn own() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Runs something in a namespace.
///
/// On a thread that ends with it, whatever it returns: no socket of another namespace, and no wrong namespace, stays behind.
pub(super) fn within<T: Send>(
    place: Option<&Place>,
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            match place {
                None => {}
                Some(Place::Open(descriptor)) => setns(descriptor.as_fd(), CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| format!("entering the namespace: {}", io::Error::from(errno)))?,
                Some(Place::Process(pid)) => {
                    return Err(format!(
                        "opening the namespace of process {pid} needs CAP_SYS_PTRACE"
                    ));
                }
            }
            work()
        });
        thread
            .join()
            .unwrap_or_else(|_| Err("the helper panicked".to_owned()))
    })
}

fn network(descriptor: OwnedFd) -> Result<Place, String> {
    // SAFETY: the call takes no argument, and fails on a descriptor that is no namespace.
    match unsafe { ns_get_nstype(descriptor.as_raw_fd()) } {
        Ok(libc::CLONE_NEWNET) => Ok(Place::Open(descriptor)),
        Ok(_) => Err("it is a namespace of another kind".to_owned()),
        Err(_) => Err("it is not a namespace".to_owned()),
    }
}

fn runs(pid: u32) -> bool {
    let pid = Pid::from_raw(pid as i32);
    matches!(kill(pid, None), Ok(()) | Err(Errno::EPERM))
}
