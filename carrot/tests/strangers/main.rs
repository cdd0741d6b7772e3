// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines that nobody of this project has made: firmware, an installer, a router of its own. Their peers are daemons in containers, which
//! nobody of this project has made either.

mod frr;
mod ipxe;
mod network_boot;
mod uefi_shell;

use std::time::Duration;

use anyhow::Result;
use rabbit::images::Machine;

/// How long something on the wire may take that comes by itself. A busy machine without KVM takes its time.
const SOON: Duration = Duration::from_secs(30);

/// A machine that `cargo xtask images` has taken from packages; none, said out loud, where the distribution has no such package.
fn machine(name: &str) -> Result<Option<Machine>> {
    let machine = rabbit::images::manifest()?.machines.remove(name);
    if machine.is_none() {
        eprintln!("SKIPPED: this test needs the machine {name}, and the distribution has no package of it");
    }
    Ok(machine)
}
