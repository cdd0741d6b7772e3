// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;

use crate::InterfaceName;

const DEVICE: &str = "/dev/net/tun";

// linux/if_tun.h; these are _IOW(.., int), but TUNSETIFF reads a whole ifreq.
nix::ioctl_write_ptr_bad!(tunsetiff, 0x4004_54ca, libc::ifreq);
nix::ioctl_write_int_bad!(tunsetpersist, 0x4004_54cb);
nix::ioctl_write_int_bad!(tunsetowner, 0x4004_54cc);

/// A tap device, which ends with its descriptor unless it has been told to stay.
pub(super) struct Tap(OwnedFd);

impl Tap {
    /// Creates a tap in the network namespace of the calling thread.
    pub(super) fn create(name: &InterfaceName) -> io::Result<Self> {
        Self::create_of(open_tun()?, name)
    }

    /// Creates a tap of a tun device, in the network namespace where that was opened.
    pub(super) fn create_of(device: OwnedFd, name: &InterfaceName) -> io::Result<Self> {
        // Never somebody else's persistent tap of the same name.
        Self::attach(device, name, libc::IFF_TUN_EXCL)
    }

    /// Opens a persistent tap, which only its owner may, and only one at a time.
    pub(super) fn open(name: &InterfaceName) -> io::Result<Self> {
        Self::attach(open_tun()?, name, 0)
    }

    fn attach(device: OwnedFd, name: &InterfaceName, flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // The name's type leaves room for the zero at the end.
        for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
            *to = from as libc::c_char;
        }
        // Frames bare.
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | flags;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: the descriptor is a tun device, and the request outlives the call.
        unsafe { tunsetiff(device.as_raw_fd(), &request) }?;
        Ok(Self(device))
    }

    /// Lets this user open it by its name.
    pub(super) fn set_owner(&self, uid: u32) -> io::Result<()> {
        // SAFETY: the descriptor is a tap; the kernel takes the number as an unsigned one.
        unsafe { tunsetowner(self.0.as_raw_fd(), uid as libc::c_int) }?;
        Ok(())
    }

    /// Has it stay without a descriptor, or not any more.
    pub(super) fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        // SAFETY: the descriptor is a tap.
        unsafe { tunsetpersist(self.0.as_raw_fd(), persistent.into()) }?;
        Ok(())
    }

    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.0
    }
}

/// Opens a tun device that is no interface yet. It belongs to the network namespace of the calling thread.
pub(super) fn open_tun() -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(DEVICE);
    let device = device.map_err(|error| io::Error::new(error.kind(), format!("{DEVICE}: {error}")))?;
    Ok(device.into())
}
