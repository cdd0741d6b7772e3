// SPDX-License-Identifier: GPL-3.0-or-later
//! QEMU machines: the command line as a builder, the process under supervision, the accelerator by proof.
//!
//! A [`Machine`] is data: what is in the box. [`Qemu::start`] makes a process of it, stopped at the first instruction, whose
//! monitor and serial console are socket pairs that only the two of them have. It ends with the test, whatever ends the test.
//!
//! ```
//! use alpy_qemu::{Accelerator, Backend, Machine, Nic};
//!
//! let machine = Machine::new()
//!     .kernel("vmlinuz")
//!     .initrd("initrd.gz")
//!     .append("console=ttyS0 quiet")
//!     .memory_mib(256);
//!
//! // The arguments alone, for a QEMU that somebody else starts.
//! let link0 = Nic::new(Backend::named_tap("tap0")).capture("link0.pcap");
//! let arguments = machine.arguments(&Accelerator::tcg(), &[link0]);
//! assert!(arguments.iter().any(|argument| argument == "virtio-net-pci,id=nic0,netdev=link0,romfile="));
//! ```
//!
//! And a whole life, under this crate's supervision:
//!
//! ```no_run
//! # use alpy_qemu::{Machine, Options, Qemu};
//! # use std::time::Duration;
//! # async fn example(machine: Machine) -> Result<(), alpy_qemu::Error> {
//! let mut qemu = Qemu::start(&machine, Vec::new(), Options::new().evidence("target/alpy/boot")).await?;
//! let console = qemu.take_console();
//! qemu.start_cpu().await?;
//! // ... log in on the console, and shut the guest down ...
//! qemu.wait_powered_down(Duration::from_secs(60)).await?;
//! qemu.wait_stopped(Duration::from_secs(5)).await?;
//! qemu.quit(Duration::from_secs(5)).await?;
//! # Ok(()) }
//! ```
//!
//! - [`Machine`]: start here. What the guest finds: kernel, disks, CD, firmware, TPM, memory, NICs' model.
//! - [`Disk`], [`DiskModel`]: a disk image, and how the guest sees it. Never written unless a word says so.
//! - [`Seed`]: what a cloud image is told at its first boot.
//! - [`Firmware`]: BIOS, UEFI, or UEFI with secure boot.
//! - [`Nic`], [`Backend`], [`NicModel`], [`nic_arguments`]: the wires out of the box, with their captures.
//! - [`Accelerator`]: KVM where it is proven to run a guest, else TCG, and why.
//! - [`Qemu`], [`Options`]: the running process.
//! - [`Schedule`], [`ProcessorTime`]: whether the host let the machine run. [`timer()`]: a limit that counts only the time in which it did.
//! - [`Recipe`], [`fingerprint`], [`checksum`]: states of machines that are saved and restored.
//! - [`Error`], [`Result`]: what can go wrong.

mod accelerator;
mod content;
mod disk;
mod error;
mod evidence;
mod files;
mod firmware;
mod iso;
mod machine;
mod memory;
mod nic;
mod option;
mod options;
mod output;
mod process;
mod qemu;
mod recipe;
mod schedule;
mod seed;
mod state;
mod tpm;

pub use accelerator::Accelerator;
pub use content::{Checksum, Identity, checksum};
pub use disk::{Disk, DiskModel};
pub use error::{Error, Result};
pub use firmware::Firmware;
pub use machine::Machine;
pub use nic::{Backend, Nic, NicModel, nic_arguments};
pub use options::Options;
pub use qemu::Qemu;
pub use recipe::{OtherStep, Recipe, RecipeStep, RootShell};
pub use schedule::{ProcessorTime, Schedule, timer};
pub use seed::Seed;
pub use state::fingerprint;
