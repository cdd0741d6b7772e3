// SPDX-License-Identifier: GPL-3.0-or-later
//! SIGINT, SIGTERM and SIGHUP end a test in order: its body is dropped, teardown runs, and then the process ends by the signal.
//!
//! The handlers are there only while there is a testbed. Tokio's own stay for ever once they are installed, so that a process would ignore
//! these signals after its last testbed.

use std::fmt;
use std::future::pending;
use std::io::{self, Read};
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream as Socket;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The signals that end a test.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The first signal that came while there was a testbed; 0 if none did.
static CAME: AtomicI32 = AtomicI32::new(0);

/// The handler writes to the first of these. The other one is never read while there is a testbed: what is in it wakes all testbeds.
static WAKE: OnceLock<(Socket, Socket)> = OnceLock::new();

static PROCESS: Mutex<Process> = Mutex::new(Process {
    testbeds: 0,
    caught: Vec::new(),
});

/// The testbeds of this process that are not torn down yet, and the signals that are caught meanwhile.
struct Process {
    testbeds: usize,
    caught: Vec<Caught>,
}

/// A signal whose handler is [`note`].
struct Caught {
    signal: Signal,
    before: SigAction,
    ours: Handler,
}

type Handler = extern "C" fn(libc::c_int);

/// A signal that asked the process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupt(Signal);

impl fmt::Display for Interrupt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str())
    }
}

/// Holds back the end of the process until a testbed is torn down.
///
/// The last one that is dropped restores what the signals did before, and raises the signal that came.
#[derive(Debug)]
pub(crate) struct Interrupts {
    wake: UnixStream,
}

impl Interrupts {
    /// From here on, a signal does not end the process before this value is dropped. A SIGHUP that is ignored, as under nohup(1), stays
    /// ignored.
    ///
    /// It has to be called within a tokio runtime.
    pub(crate) fn hold() -> io::Result<Self> {
        let mut process = process();
        let wake = UnixStream::from_std(wake()?.1.try_clone()?)?;
        if process.testbeds == 0 {
            CAME.store(0, Ordering::SeqCst);
            for signal in SIGNALS {
                match Caught::catch(signal) {
                    Ok(caught) => process.caught.extend(caught),
                    Err(error) => {
                        process.release();
                        return Err(error);
                    }
                }
            }
        }
        process.testbeds += 1;
        Ok(Self { wake })
    }

    /// Waits for a signal; one that has come already is returned at once. Cancel safe.
    pub(crate) async fn next(&mut self) -> Interrupt {
        loop {
            if let Some(interrupt) = self.came() {
                return interrupt;
            }
            if self.wake.readable().await.is_err() {
                // The runtime is being shut down.
                return pending().await;
            }
            let unread = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            // Tokio waits for the next byte then. It is an error by design.
            let _ = self.wake.try_io(Interest::READABLE, unread);
        }
    }

    /// The signal that has come.
    pub(crate) fn came(&self) -> Option<Interrupt> {
        Signal::try_from(CAME.load(Ordering::SeqCst)).ok().map(Interrupt)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let mut process = process();
        process.testbeds -= 1;
        if process.testbeds > 0 {
            return;
        }
        let ignored = process.release();
        if let Some(Interrupt(signal)) = self.came() {
            if ignored.contains(&signal) {
                // A shell without job control starts background jobs so. But the test has ended for this signal.
                let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
                // SAFETY: the default action runs no code of ours.
                let _ = unsafe { sigaction(signal, &default) };
            }
            // Neither can fail for these signals; if one did, the test's error still says what happened.
            let _ = raise(signal);
            // The program has a handler of its own, and goes on.
            CAME.store(0, Ordering::SeqCst);
            if let Some((_, read)) = WAKE.get() {
                let mut read: &Socket = read;
                while read.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
            }
        }
    }
}

impl Process {
    /// Restores what the signals did before, and returns those that were ignored.
    fn release(&mut self) -> Vec<Signal> {
        let caught = mem::take(&mut self.caught);
        caught.iter().for_each(Caught::release);
        let ignored = caught.iter().filter(|caught| is_ignored(&caught.before));
        ignored.map(|caught| caught.signal).collect()
    }
}

impl Caught {
    /// Installs the handler, unless the signal is a SIGHUP that is ignored.
    fn catch(signal: Signal) -> io::Result<Option<Self>> {
        let ours: Handler = note;
        let action = SigAction::new(SigHandler::Handler(ours), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: `note` does only what signal-safety(7) allows.
        let before = unsafe { sigaction(signal, &action) }?;
        let caught = Self { signal, before, ours };
        if signal == Signal::SIGHUP && is_ignored(&before) {
            caught.release();
            return Ok(None);
        }
        Ok(Some(caught))
    }

    /// Restores what the signal did before, unless the program has installed a handler since, which then stays.
    fn release(&self) {
        // SAFETY: this action was the process's before.
        match unsafe { sigaction(self.signal, &self.before) } {
            Ok(now) if !matches!(now.handler(), SigHandler::Handler(now) if now as usize == self.ours as usize) =>
            {
                // SAFETY: this action was the process's just now.
                let _ = unsafe { sigaction(self.signal, &now) };
            }
            _ => {}
        }
    }
}

fn is_ignored(action: &SigAction) -> bool {
    matches!(action.handler(), SigHandler::SigIgn)
}

/// The handler.
extern "C" fn note(signal: libc::c_int) {
    let errno = Errno::last_raw();
    let _ = CAME.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    if let Some((write, _)) = WAKE.get() {
        // SAFETY: write(2) is safe in a handler, and the byte outlives the call. If the socket is full, the testbeds are awake already.
        unsafe { libc::write(write.as_raw_fd(), [0_u8].as_ptr().cast(), 1) };
    }
    Errno::set_raw(errno);
}

/// The sockets, made at the first call.
fn wake() -> io::Result<&'static (Socket, Socket)> {
    if let Some(pair) = WAKE.get() {
        return Ok(pair);
    }
    let (write, read) = Socket::pair()?;
    write.set_nonblocking(true)?;
    read.set_nonblocking(true)?;
    Ok(WAKE.get_or_init(|| (write, read)))
}

fn process() -> MutexGuard<'static, Process> {
    PROCESS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// How often the program's own handler was called.
    static OWN: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn own(_: libc::c_int) {
        OWN.fetch_add(1, Ordering::SeqCst);
    }

    fn handle(signal: Signal, handler: SigHandler) -> SigHandler {
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        // SAFETY: `own` only adds to a number.
        unsafe { sigaction(signal, &action) }.unwrap().handler()
    }

    /// One test, for the handlers are those of the whole process. With a handler of the program's own, the process outlives each signal.
    #[tokio::test]
    async fn a_signal_is_held_back_for_as_long_as_there_is_a_testbed_and_then_given_to_the_program() {
        let limit = Duration::from_secs(30);
        let own = SigHandler::Handler(own);
        let first = handle(Signal::SIGTERM, own);
        handle(Signal::SIGHUP, SigHandler::SigIgn);
        for round in 1..=3 {
            let mut one = Interrupts::hold().unwrap();
            let mut other = Interrupts::hold().unwrap();
            assert!(timeout(Duration::from_millis(1), one.next()).await.is_err());
            raise(Signal::SIGHUP).unwrap();
            assert_eq!(one.came(), None, "it is ignored");
            raise(Signal::SIGTERM).unwrap();
            for testbed in [&mut one, &mut other] {
                let interrupt = timeout(limit, testbed.next()).await.unwrap();
                assert_eq!(interrupt.to_string(), "SIGTERM");
            }
            drop(one);
            // One that begins now is to end at once.
            let mut late = Interrupts::hold().unwrap();
            assert_eq!(
                timeout(limit, late.next()).await.unwrap(),
                Interrupt(Signal::SIGTERM)
            );
            drop(late);
            assert_eq!(OWN.load(Ordering::SeqCst), round - 1, "there is a testbed yet");
            drop(other);
            assert_eq!(OWN.load(Ordering::SeqCst), round);
        }
        // A handler that was installed while there was a testbed stays.
        let held = Interrupts::hold().unwrap();
        handle(Signal::SIGTERM, SigHandler::SigIgn);
        drop(held);
        assert!(matches!(handle(Signal::SIGTERM, first), SigHandler::SigIgn));
        let hang_up = handle(Signal::SIGHUP, SigHandler::SigDfl);
        assert!(matches!(hang_up, SigHandler::SigIgn));
    }
}
