// SPDX-License-Identifier: GPL-3.0-or-later
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::libc;

/// `TUNSETCARRIER` of linux/if_tun.h: `_IOW('T', 226, int)`.
const TUNSETCARRIER: libc::Ioctl = 0x4004_54e2;

/// Gives a tap a carrier, or takes it away, as a cable would: the kernel at its end says `NO-CARRIER` then, and sends nothing as soon
/// as it has noticed, within a second ([`LinkState::sends`](crate::LinkState::sends)). What is written to the descriptor is received all the same.
///
/// Whoever holds the descriptor of a tap may do so, without any privilege. (Since Linux 5.0.)
///
/// # Errors
/// The descriptor is not that of a tap, or the tap has ended.
pub fn set_carrier(tap: impl AsFd, carrier: bool) -> io::Result<()> {
    let carrier = libc::c_int::from(carrier);
    // SAFETY: the kernel reads one int, which outlives the call, whatever the descriptor is.
    let result = unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), TUNSETCARRIER, &raw const carrier) };
    Errno::result(result)?;
    Ok(())
}
