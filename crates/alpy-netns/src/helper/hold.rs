// SPDX-License-Identifier: GPL-3.0-or-later
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::libc;
use nix::sys::signal::{SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::serve::send;
use super::tap::open_tun;
use crate::Loan;
use crate::wire::{Hello, VERSION};

/// Stays until standard input ends, or a SIGTERM or SIGINT comes, which ends the process with the status 128 + signal at once.
///
/// Made to be process 1 of a container: its end is the end of every process there, the kernel sees to that. Orphans that die
/// before are reaped. With a socket, that of a [`Listener`](crate::Listener), it first lends a [`Loan`] of its network namespace there.
///
/// # Errors
/// The socket is not there, the namespace has no tun device, or standard input cannot be read.
pub fn hold(lend_to: Option<&Path>) -> io::Result<()> {
    handle(Signal::SIGTERM, SigHandler::Handler(end))?;
    handle(Signal::SIGINT, SigHandler::Handler(end))?;
    // With SIGCHLD ignored the kernel itself reaps children, adopted ones too (waitpid(2), notes).
    handle(Signal::SIGCHLD, SigHandler::SigIgn)?;
    if let Some(socket) = lend_to {
        let stream = UnixStream::connect(socket)?;
        send(&stream, &Hello { alpy_netns: VERSION }, &loan()?.descriptors())?;
    }
    let mut stdin = io::stdin().lock();
    let mut buffer = [0; 4096];
    loop {
        match stdin.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens what there is to lend of this network namespace. That needs no capability.
fn loan() -> io::Result<Loan> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    Ok(Loan::new(netlink, open_tun()?))
}

/// Process 1 has no default action for a signal: without a handler it would not be there.
fn handle(signal: Signal, handler: SigHandler) -> io::Result<()> {
    let action = SigAction::new(handler, nix::sys::signal::SaFlags::empty(), SigSet::empty());
    // SAFETY: the one handler calls _exit(2) alone, which is async-signal-safe.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

extern "C" fn end(signal: libc::c_int) {
    // SAFETY: _exit(2) may be called at any moment and does not return.
    unsafe { libc::_exit(128 + signal) }
}
