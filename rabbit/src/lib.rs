// SPDX-License-Identifier: GPL-3.0-or-later
//! The sample appliance of the alpy project: a small Linux router.
//!
//! - [`machine`]: the rabbit as a QEMU machine.
//! - [`disk_machine`]: the same that boots from a disk, and keeps its configuration there.
//! - [`guest`]: the system in it, for who logs in.
//! - [`image`]: the container images that its tests use.
//! - [`images`]: where `cargo xtask images` put all of them.
//!
//! The recipes are in `rabbit/image`, `rabbit/machines` and `rabbit/containers`, the tests in `rabbit/tests`.

pub mod images;

use std::path::PathBuf;
use std::time::Duration;

use alpy::after_login;
use alpy::console::Guest;
use alpy::docker::{Engine, Tar};
use alpy::qemu::{Disk, Machine};
use anyhow::{Context, Result};

/// Memory of the rabbit in MiB.
pub const MEMORY_MIB: u32 = 256;

/// What a rabbit's shell prints when it waits for a command.
pub const PROMPT: &str = "rabbit# ";

/// How long a rabbit may take to boot. A busy machine without KVM takes its time.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// How long the login may take, and each command that does not say otherwise.
const STEP_LIMIT: Duration = Duration::from_secs(20);

/// What is to be known of the system in a rabbit: root logs in without a password.
pub fn guest() -> Guest {
    Guest::busybox()
        .ready("rabbit login: ")
        .boot_limit(BOOT_LIMIT)
        .limit(STEP_LIMIT)
}

/// The rabbit as a machine: kernel, initrd, serial console, 256 MiB of memory. Tests begin behind the login of its
/// [guest].
pub fn machine() -> Result<Machine> {
    let rabbit = images::manifest()?.rabbit;
    Ok(Machine::new()
        .kernel(rabbit.kernel)
        .initrd(rabbit.initrd)
        .append(rabbit.cmdline)
        .memory_mib(MEMORY_MIB)
        .saved_state(after_login(guest())))
}

/// The rabbit as a machine with a disk that it boots from: by BIOS, and with [`Machine::firmware`] by UEFI. The rest is as in [`machine`].
///
/// Such a rabbit keeps its configuration: the file system of its disk is at [`CONFIG`], and at boot it runs the script `startup` there. That
/// outlives a reboot, not the test: what the guest writes goes to an overlay that is gone with QEMU ([`Disk`]).
pub fn disk_machine() -> Result<Machine> {
    Ok(Machine::new()
        .disk(Disk::new(disk_image()?).format("raw"))
        .memory_mib(MEMORY_MIB)
        .saved_state(after_login(guest())))
}

/// Where a rabbit that booted from its disk has the disk's file system.
pub const CONFIG: &str = "/config";

/// The disk image of [`disk_machine`].
pub fn disk_image() -> Result<PathBuf> {
    Ok(images::manifest()?.rabbit.disk)
}

/// The name of a container image that the tests use: `bird`, `busybox`, `dnsmasq`, `http`, `iperf3`, `iproute2` or `tcpreplay`. It is
/// imported into the engine if it is not there yet.
pub async fn image(engine: &Engine, name: &str) -> Result<String> {
    let mut images = images::manifest()?;
    let image = images
        .containers
        .remove(name)
        .with_context(|| format!("there is no image {name:?} for tests"))?;
    let env: Vec<String> = image
        .env
        .iter()
        .map(|variable| format!("ENV {variable}"))
        .collect();
    let changes: Vec<&str> = env.iter().map(String::as_str).collect();
    let import = async || {
        let import = engine.import_image(&image.tag, Tar::file(&image.rootfs), &changes);
        alpy::step!(format!("Import image {}", image.tag), import).await
    };
    engine
        .ensure_image(&image.tag, import)
        .await
        .with_context(|| format!("image {name:?} for tests"))?;
    Ok(image.tag)
}
