// SPDX-License-Identifier: GPL-3.0-or-later
//! Files that are in memory, have no name, and go with the last process that has them open.

use std::ffi::CStr;
use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// An empty file that is never executed and may be sealed.
///
/// With the sysctl `vm.memfd_noexec` at 2, the kernel refuses a file that does not promise the former. Kernels before 6.3 do not know the
/// flag.
pub(crate) fn file(name: &CStr) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let promised = flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    match memfd_create(name, promised) {
        Err(Errno::EINVAL) => Ok(memfd_create(name, flags)?.into()),
        made => Ok(made?.into()),
    }
}
