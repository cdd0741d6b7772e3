// SPDX-License-Identifier: GPL-3.0-or-later
//! The running machine.

mod disks;
mod nics;

use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use alpy_qmp::commands::Cont;
use alpy_qmp::{Client, Position, Timer};
use tokio::net::UnixStream;
use tokio::time::timeout;

use nics::{Captured, Nics};

use crate::accelerator::Accelerator;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::evidence;
use crate::machine::{Machine, Passed};
use crate::nic::{Nic, NicModel};
use crate::options::Options;
use crate::process::{Launch, Process};
use crate::schedule::Schedule;
use crate::seed::Seed;
use crate::state::{self, Place};
use crate::tpm::Tpm;

/// A running QEMU.
///
/// It ends with [`quit`](Self::quit). One that is dropped is killed; so is one whose parent ends, in whatever way.
pub struct Qemu {
    qmp: Client,
    console: Option<UnixStream>,
    process: Process,
    schedule: Schedule,
    timer: Timer,
    tpm: Option<Tpm>,
    accelerator: Accelerator,
    nic_model: NicModel,
    nics: Mutex<Nics>,
    place: Option<Place>,
    disks: Vec<Disk>,
    cpu_started: OnceLock<Instant>,
    /// Somebody has told it to end.
    told_to_end: AtomicBool,
    killed: AtomicBool,
}

impl Qemu {
    /// Starts a machine, with its CPUs stopped, and connects to its monitor and its console.
    ///
    /// Of the descriptors of taps that it is given, QEMU alone has copies afterwards: if the caller keeps none, a tap's carrier goes with
    /// QEMU.
    ///
    /// Cancel safe: QEMU is killed.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`], [`Error::Spawn`]. [`Error::Exited`] if QEMU does not like the machine, with what it says.
    /// [`Error::Qmp`] if it does not greet in time. [`Error::Evidence`]. As [`Machine::check`] and
    /// [`Accelerator::detect`].
    pub async fn start(machine: &Machine, nics: Vec<Nic>, options: Options) -> Result<Self> {
        machine.check()?;
        if options.place.is_some() {
            machine.check_savable()?;
        }
        let accelerator = match options.accelerator {
            Some(accelerator) => accelerator,
            None => Accelerator::detect(machine.program_path()).await?,
        };
        let count = nics.len();
        let (qmp, qmp_far) = socket_pair()?;
        let (console, console_far) = socket_pair()?;
        let captured = |(nic, of): (usize, &Nic)| Captured::of(nic, of);
        let captures = nics
            .iter()
            .enumerate()
            .filter_map(captured)
            .collect::<Result<_>>()?;
        let mut arguments = [
            "-S",
            "-chardev",
            &format!("socket,id=qmp,fd={}", qmp_far.as_raw_fd()),
            // Not `-mon`, which is deprecated since QEMU 11.1.
            "-qmp",
            "chardev:qmp",
            "-chardev",
            &format!("socket,id=console,fd={}", console_far.as_raw_fd()),
            "-serial",
            "chardev:console",
        ]
        .map(Into::into)
        .to_vec();
        let (tpm, tpm_far) = if machine.has_tpm() {
            let (tpm, far) = Tpm::start().await?;
            (Some(tpm), Some(far))
        } else {
            (None, None)
        };
        let seed = machine.seed_of_cloud().map(Seed::open).transpose()?;
        arguments.extend(machine.arguments_in(
            &accelerator,
            &nics,
            options.place.as_ref(),
            &Passed {
                clock: match &options.place {
                    Some(Place::Restore(folder)) => Some(state::clock(folder)?),
                    _ => None,
                },
                seed: seed.as_ref().map(AsRawFd::as_raw_fd),
                tpm: tpm_far.as_ref().map(AsRawFd::as_raw_fd),
            },
        ));
        let mut descriptors: Vec<_> = nics.into_iter().filter_map(Nic::into_descriptor).collect();
        descriptors.extend([qmp_far, console_far]);
        descriptors.extend(seed.map(OwnedFd::from));
        descriptors.extend(tpm_far);

        let mut qmp_options = alpy_qmp::Options::new()
            .greeting_timeout(options.start_timeout)
            // Enough to find the end of a guest's life in, whatever came before it.
            .history_events(1 << 14);
        if let Some(folder) = &options.evidence {
            let begin = options.clock_start.unwrap_or_else(Instant::now);
            qmp_options = evidence::wire_log(qmp_options, folder, begin)?;
        }
        let process = Process::start(Launch {
            program: machine.program_path().to_owned(),
            arguments,
            descriptors,
            evidence: options.evidence,
        })
        .await?;
        let schedule = Schedule::of(process.pid());
        let timer = options.timer.unwrap_or_else(|| schedule.timer());
        let qmp_options = qmp_options.timer(Arc::clone(&timer));
        let qmp = match qmp_options.attach(qmp).await {
            Ok(client) => client,
            Err(error) => {
                let error = explain(&process, "at its start", error).await;
                // What QEMU does not like may be that it has no TPM any more.
                let ended = async {
                    timeout(Duration::from_secs(2), tpm.as_ref()?.ended())
                        .await
                        .ok()?
                };
                return Err(ended.await.unwrap_or(error));
            }
        };
        Ok(Self {
            qmp,
            console: Some(console),
            process,
            schedule,
            timer,
            tpm,
            accelerator,
            nic_model: machine.model_of_nics(),
            nics: Mutex::new(Nics { count, captures }),
            place: options.place,
            disks: machine.disks().to_vec(),
            cpu_started: OnceLock::new(),
            told_to_end: AtomicBool::new(false),
            killed: AtomicBool::new(false),
        })
    }

    /// The monitor.
    pub fn qmp(&self) -> &Client {
        &self.qmp
    }

    /// The other end of the serial console; `None` the second time. Read it all the time: a guest whose console nobody reads
    /// waits, by default as soon as 278 bytes are unread, for QEMU writes them one by one and the kernel counts each as a
    /// whole buffer.
    pub fn take_console(&mut self) -> Option<UnixStream> {
        self.console.take()
    }

    /// What executes the guest's instructions.
    pub fn accelerator(&self) -> &Accelerator {
        &self.accelerator
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process id of the [TPM](Machine::tpm).
    pub fn tpm_pid(&self) -> Option<u32> {
        self.tpm.as_ref().map(Tpm::pid)
    }

    /// The processor time that the host gave the machine.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The timer that all waits for the guest have: [`Options::timer`], by default one that does not count the time in which this machine was
    /// kept from running.
    pub fn timer(&self) -> &Timer {
        &self.timer
    }

    /// Program and arguments, as a shell would take them.
    pub fn command_line(&self) -> &str {
        self.process.command_line()
    }

    /// The last lines that QEMU wrote on stderr.
    pub fn stderr_tail(&self) -> String {
        self.process.stderr_tail()
    }

    /// Lets the CPUs run.
    ///
    /// Not cancel safe: they may run then, or not.
    ///
    /// # Errors
    /// [`Error::Exited`], [`Error::Qmp`].
    pub async fn start_cpu(&self) -> Result<()> {
        self.cpu_started.get_or_init(Instant::now);
        match self.qmp.execute(Cont).await {
            Ok(_) => Ok(()),
            Err(error) => Err(explain(&self.process, "when its CPU was started", error).await),
        }
    }

    /// Stops the CPUs and saves the machine into the folder of [`Options::save_to`]. The state is whole once QEMU has ended after that:
    /// it must not run on, for its memory is in the folder.
    ///
    /// Not cancel safe: the machine is stopped then, and the folder of no use.
    ///
    /// # Errors
    /// [`Error::State`], also without [`Options::save_to`]. [`Error::Qmp`], also after `timeout`. [`Error::Exited`], [`Error::File`].
    pub async fn save(&self, timeout: Duration) -> Result<()> {
        let Some(Place::Save(folder)) = &self.place else {
            return Err(state::failed("save", "it was not started to be saved"));
        };
        match state::save(
            &self.qmp,
            folder,
            self.disks.len(),
            self.cpu_started.get().copied(),
            timeout,
        )
        .await
        {
            Err(Error::Qmp { when, source }) => Err(explain(&self.process, when, source).await),
            result => result,
        }
    }

    /// Loads the state that is in the folder of [`Options::restore_from`]. The CPUs stay stopped; no network interface announces itself.
    ///
    /// Not cancel safe: half of the state may be loaded then.
    ///
    /// # Errors
    /// [`Error::State`], also without [`Options::restore_from`]. [`Error::Exited`] if the state is none of this machine.
    /// [`Error::Qmp`], also after `timeout`. [`Error::File`].
    pub async fn restore(&self, timeout: Duration) -> Result<()> {
        let Some(Place::Restore(folder)) = &self.place else {
            return Err(state::failed("load", "it was not started to be restored"));
        };
        match state::restore(&self.qmp, folder, timeout).await {
            Err(Error::Qmp { when, source }) => Err(explain(&self.process, when, source).await),
            result => result,
        }
    }

    /// Waits until the guest has powered the machine off. The limit is measured by the machine's [`timer`](Self::timer).
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::UnexpectedShutdown`] if something else than the guest's order was the reason. [`Error::Exited`].
    /// [`Error::Qmp`] if it has not happened within `timeout`.
    pub async fn wait_powered_down(&self, timeout: Duration) -> Result<()> {
        self.powered_down(timeout).await.map(drop)
    }

    /// Waits until the machine has stopped after it was powered off: CPUs, disks, everything.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As [`wait_powered_down`](Self::wait_powered_down).
    pub async fn wait_stopped(&self, timeout: Duration) -> Result<()> {
        let behind = self.powered_down(timeout).await?;
        match self.qmp.wait_for("STOP", behind, timeout).await {
            Ok(_) => Ok(()),
            Err(error) => Err(explain(&self.process, "before it had stopped", error).await),
        }
    }

    /// Ends QEMU: tells it to quit, and kills it if it has not within `timeout`. It has ended in any case, unless the kernel
    /// itself cannot end it.
    ///
    /// Cancel safe: it can be called again.
    ///
    /// # Errors
    /// [`Error::Killed`]. [`Error::Exited`] if the exit status is not 0, or if QEMU had ended before with a status that is
    /// not; one that was [killed](Self::kill) here, or by an earlier call, has ended as it was told to.
    pub async fn quit(&self, timeout: Duration) -> Result<()> {
        let begin = Instant::now();
        self.told_to_end.store(true, Ordering::Relaxed);
        if self.process.exit_status().is_none() {
            self.before_closing(|_| true);
        }
        let order = self.qmp.quit(timeout).await;
        let rest = timeout.saturating_sub(begin.elapsed());
        // The kernel takes a moment to take down the process behind a closed connection.
        let status = match self.wait_exit(rest.max(Duration::from_millis(100))).await {
            Ok(status) => status,
            Err(_) => {
                self.kill();
                self.wait_exit(Duration::from_secs(5)).await?;
                return Err(Error::Killed {
                    after: timeout,
                    source: order.err(),
                });
            }
        };
        let killed = self.killed.load(Ordering::Relaxed) && status.signal() == Some(libc::SIGKILL);
        if status.success() || killed {
            Ok(())
        } else {
            Err(self.process.exited("at its end", status))
        }
    }

    /// Sends SIGKILL, and does not wait.
    pub fn kill(&self) {
        self.told_to_end.store(true, Ordering::Relaxed);
        self.killed.store(true, Ordering::Relaxed);
        self.process.kill();
    }

    /// Waits for an end of the machine that nobody has asked for: of QEMU or of its TPM, before [`quit`](Self::quit) and
    /// [`kill`](Self::kill), or of a disk that the host cannot read or write. A QEMU that was told `quit` over QMP has ended as asked. If
    /// nothing of this happens, it never returns.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// It returns [`Error::Exited`], [`Error::TpmEnded`] or [`Error::DiskFailed`].
    pub async fn unexpected_end(&self) -> Error {
        let qemu = async {
            let status = self.process.wait().await;
            (!status.success()).then(|| self.process.exited("unexpectedly", status))
        };
        let tpm = async { self.tpm.as_ref()?.ended().await };
        let error = tokio::select! {
            Some(error) = qemu => error,
            Some(error) = tpm => error,
            Some(error) = disks::failed(&self.qmp, &self.disks) => error,
            else => return std::future::pending().await,
        };
        if self.told_to_end.load(Ordering::Relaxed) {
            return std::future::pending().await;
        }
        error
    }

    /// Whether the process is stopped by a signal, such as SIGSTOP, and so answers nobody (proc(5), `/proc/<pid>/stat`).
    pub fn is_stopped_by_signal(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        // The state comes behind the name, which may hold anything.
        stat.rsplit_once(") ")
            .is_some_and(|(_, fields)| fields.starts_with('T'))
    }

    /// Waits until QEMU has ended, by whatever cause, and all its output is logged.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub async fn wait_exit(&self, limit: Duration) -> Result<ExitStatus> {
        timeout(limit, self.process.wait())
            .await
            .map_err(|_| Error::Timeout {
                what: "end",
                after: limit,
            })
    }

    /// The exit status, if QEMU has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.process.exit_status()
    }

    /// Gives the place behind the event.
    async fn powered_down(&self, timeout: Duration) -> Result<Position> {
        let event = match self.qmp.wait_for("SHUTDOWN", Position::START, timeout).await {
            Ok(event) => event,
            Err(error) => return Err(explain(&self.process, "before its guest powered off", error).await),
        };
        match event.data["reason"].as_str() {
            Some("guest-shutdown") => Ok(event.next_position()),
            reason => Err(Error::UnexpectedShutdown {
                reason: reason.unwrap_or("unknown").to_owned(),
            }),
        }
    }
}

/// What is behind a failure of the monitor: often that QEMU has ended.
async fn explain(process: &Process, when: &'static str, error: alpy_qmp::Error) -> Error {
    let lost = matches!(
        error,
        alpy_qmp::Error::Disconnected { .. } | alpy_qmp::Error::OutcomeUnknown { .. }
    );
    // The connection's end is seen a little before the process's.
    let patience = if lost {
        Duration::from_secs(2)
    } else {
        Duration::ZERO
    };
    match timeout(patience, process.wait()).await {
        Ok(status) => process.exited(when, status),
        Err(_) => Error::Qmp { when, source: error },
    }
}

/// Our end, and QEMU's.
fn socket_pair() -> Result<(UnixStream, OwnedFd)> {
    let pair = || {
        let (near, far) = StdUnixStream::pair()?;
        near.set_nonblocking(true)?;
        Ok((UnixStream::from_std(near)?, far.into()))
    };
    pair().map_err(|source| Error::System {
        what: "make a socket pair",
        source,
    })
}

impl fmt::Debug for Qemu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qemu")
            .field("qmp", &self.qmp)
            .field("process", &self.process)
            .field("accelerator", &self.accelerator)
            .finish_non_exhaustive()
    }
}
