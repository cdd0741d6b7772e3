// SPDX-License-Identifier: GPL-3.0-or-later
//! The sample appliance of the alpy project: a small Linux router.
//!
//! - [`machine`]: the rabbit as a QEMU machine.
//! - [`image`]: the container images that its tests use.
//! - [`images`]: where `cargo xtask images` put all of them.
//!
//! The recipes are in `rabbit/image` and `rabbit/containers`, the tests in `rabbit/tests`.

pub mod images;

use alpy::docker::{Engine, Tar};
use alpy::qemu::Machine;
use anyhow::{Context, Result};

/// Memory of the rabbit in MiB.
pub const MEMORY_MIB: u32 = 256;

/// The rabbit as a machine: kernel, initrd, serial console, 256 MiB of memory.
pub fn machine() -> Result<Machine> {
    let rabbit = images::manifest()?.rabbit;
    Ok(Machine::new()
        .kernel(rabbit.kernel)
        .initrd(rabbit.initrd)
        .append(rabbit.cmdline)
        .memory_mib(MEMORY_MIB))
}

/// The name of a container image that the tests use: `busybox`, `http`, `iperf3` or `iproute2`. It is imported into the engine if it
/// is not there yet.
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
        engine
            .import_image(&image.tag, Tar::file(&image.rootfs), &changes)
            .await
    };
    engine
        .ensure_image(&image.tag, import)
        .await
        .with_context(|| format!("image {name:?} for tests"))?;
    Ok(image.tag)
}
