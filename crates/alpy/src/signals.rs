// SPDX-License-Identifier: GPL-3.0-or-later
//! SIGINT, SIGTERM and SIGHUP end a test in order: its body is dropped, teardown runs, and then the process ends by the signal.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use tokio::signal::unix::{self, SignalKind};

/// The testbeds of this process that are not torn down yet, and the signal that is to end the process after the last one.
static PROCESS: Mutex<Process> = Mutex::new(Process {
    testbeds: 0,
    fatal: None,
});

struct Process {
    testbeds: usize,
    fatal: Option<Signal>,
}

/// A signal that asked the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupt(Signal);

impl fmt::Display for Interrupt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str())
    }
}

/// Holds back the end of the process for as long as a testbed needs to be torn down.
#[derive(Debug)]
pub(crate) struct Interrupts {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    hang_up: unix::Signal,
}

impl Interrupts {
    /// From here on, a signal does not end the process before this value is dropped.
    pub(crate) fn hold() -> io::Result<Self> {
        let this = Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            hang_up: unix::signal(SignalKind::hangup())?,
        };
        process(|process| process.testbeds += 1);
        Ok(this)
    }

    /// Waits for a signal. Cancel safe.
    pub(crate) async fn next(&mut self) -> Interrupt {
        let signal = tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hang_up.recv() => Signal::SIGHUP,
        };
        process(|process| process.fatal = Some(signal));
        Interrupt(signal)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let fatal = process(|process| {
            process.testbeds -= 1;
            process.fatal.filter(|_| process.testbeds == 0)
        });
        if let Some(signal) = fatal {
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            // SAFETY: the default action runs no code of ours.
            let restored = unsafe { sigaction(signal, &default) };
            // Neither can fail for these signals; if one did, the test's error still says what happened.
            let _ = restored.and_then(|_| raise(signal));
        }
    }
}

fn process<T>(act: impl FnOnce(&mut Process) -> T) -> T {
    act(&mut PROCESS.lock().unwrap_or_else(PoisonError::into_inner))
}
