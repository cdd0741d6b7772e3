// SPDX-License-Identifier: GPL-3.0-or-later
//! What can go wrong.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// The result of what can go wrong here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The emulator is not installed.
    #[error("{} is not installed; remedy: sudo apt-get install qemu-system-x86", program.display())]
    ProgramMissing {
        /// What was to be run.
        program: PathBuf,
    },
    /// The emulator could not be run.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// What was to be run.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// QEMU has ended when it should not have, or not as it should.
    #[error("QEMU ended with {status} {when}; its last words: {}; it was: {command_line}", last_words(.stderr))]
    Exited {
        /// In the course of what.
        when: &'static str,
        /// The exit status, or the signal.
        status: ExitStatus,
        /// The end of what it wrote on stderr.
        stderr: String,
        /// Program and arguments, as a shell would take them.
        command_line: String,
    },
    /// The host cannot read or write a disk of the machine. For want of space QEMU has stopped the machine.
    #[error("the host cannot {operation} {disk}, {place}: {reason}; remedy: {remedy}")]
    DiskFailed {
        /// The disk, as QEMU names it: `disk0`, `disk1`, ...
        disk: String,
        /// `read` or `write`.
        operation: &'static str,
        /// The file, or of which image and where the overlay is.
        place: String,
        /// What QEMU says.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// QEMU did not do something in time.
    #[error("QEMU did not {what} within {after:?}")]
    Timeout {
        /// What it should have done.
        what: &'static str,
        /// How long it was waited.
        after: Duration,
    },
    /// QEMU did not end in time when it was told to. It is killed by now.
    #[error("QEMU did not quit within {after:?} and was killed")]
    Killed {
        /// How long it was waited.
        after: Duration,
        /// What was in the way of the command, if it was not the time alone.
        source: Option<alpy_qmp::Error>,
    },
    /// The machine went down, but it was not the guest that powered it off.
    #[error("the machine went down for the reason {reason}, expected guest-shutdown")]
    UnexpectedShutdown {
        /// The reason as QMP names it (QEMU, qapi/run-state.json, `ShutdownCause`).
        reason: String,
    },
    /// The monitor failed.
    #[error("QMP failed {when}")]
    Qmp {
        /// In the course of what.
        when: &'static str,
        /// The client's error.
        source: alpy_qmp::Error,
    },
    /// There is no UEFI firmware where distributions put it.
    #[error("no UEFI firmware is installed; remedy: sudo apt-get install ovmf")]
    FirmwareMissing,
    /// A file that the machine is made of is not there.
    #[error("the {what} {} is not there; remedy: create it, or correct its path", path.display())]
    ImageMissing {
        /// What it is to the machine.
        what: String,
        /// The file, from the root.
        path: PathBuf,
    },
    /// A file that the machine is made of is there, and of no use.
    #[error("the {what} {} cannot be {mode}; remedy: a file that this user may open, in folders that this user may enter", path.display())]
    ImageUnusable {
        /// What it is to the machine.
        what: String,
        /// The file, from the root.
        path: PathBuf,
        /// Read, or written to.
        mode: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A disk's image is in another format than is said.
    #[error("the disk image {} is qcow2 and not raw; remedy: no format at all, or Disk::format(\"qcow2\")", path.display())]
    ImageFormat {
        /// The file, from the root.
        path: PathBuf,
    },
    /// A disk's image is compressed, which QEMU does not understand.
    #[error("the disk image {} is compressed; remedy: {remedy} {}", path.display(), path.display())]
    ImageCompressed {
        /// The file, from the root.
        path: PathBuf,
        /// The command that decompresses it.
        remedy: &'static str,
    },
    /// The overlays of disks have nowhere to be.
    #[error("TMPDIR={} is not a directory that this user may write to, and QEMU keeps there what the guest writes to its disks; remedy: create it, or unset TMPDIR", path.display())]
    NoTemporaryFolder {
        /// The variable's value.
        path: PathBuf,
    },
    /// There is no UEFI firmware that knows whom to trust where distributions put it.
    #[error(
        "no UEFI firmware with secure boot and Microsoft's keys is installed; remedy: sudo apt-get install ovmf, or files of \
         your own as Firmware::SecureBoot"
    )]
    SecureBootMissing,
    /// The machine has no mode of the CPU that secure boot could keep its variables in.
    #[error(
        "secure boot needs SMM, and so the machine type q35, but this machine is of type {machine_type}; remedy: machine_type(\"q35\")"
    )]
    NoSecureBoot {
        /// The type that it is of.
        machine_type: String,
    },
    /// The machine has a TPM, and there is no program to emulate it.
    #[error("swtpm, which emulates the machine's TPM, is not installed; remedy: sudo apt-get install swtpm")]
    TpmMissing,
    /// The TPM has ended before the machine.
    #[error("swtpm ended with {status}; its last words: {}; it was: {command_line}", last_words(.stderr))]
    TpmEnded {
        /// The exit status, or the signal.
        status: ExitStatus,
        /// The end of what it wrote on stderr.
        stderr: String,
        /// Program and arguments, as a shell would take them.
        command_line: String,
    },
    /// The environment asks for an accelerator that there is not.
    #[error("ALPY_ACCEL={value:?} is no accelerator; it is kvm or tcg, or not set for a choice by proof")]
    UnknownAccelerator {
        /// The variable's value.
        value: String,
    },
    /// The environment asks for KVM where there is none.
    #[error("ALPY_ACCEL=kvm, but {} cannot be opened", device.display())]
    KvmUnusable {
        /// The device.
        device: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A saved state of this machine would not hold all that its guest changes.
    #[error("no state can be saved of a machine with {what}; remedy: without it, or without saved_state")]
    NotSavable {
        /// What is in the way.
        what: String,
    },
    /// QEMU could not save the machine's state, or not load one.
    #[error("cannot {what} the machine's state: {reason}")]
    State {
        /// Save or load.
        what: &'static str,
        /// What QEMU says.
        reason: String,
    },
    /// A file of a machine or of a saved state cannot be read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Evidence cannot be written.
    #[error("cannot write {}", path.display())]
    Evidence {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {what}")]
    System {
        /// What it refused.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

fn last_words(stderr: &str) -> &str {
    if stderr.is_empty() { "none" } else { stderr }
}
