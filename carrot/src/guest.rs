// SPDX-License-Identifier: GPL-3.0-or-later
//! The life of a rabbit: boot, login, configuration, reboot, power off.

use std::time::Duration;

use alpy::console::RemoteShell;
use alpy::qmp::Event;
use alpy::{Dut, step};
use anyhow::Result;

/// How long the system may take to power off.
const POWEROFF_LIMIT: Duration = Duration::from_secs(60);

const SABOTAGE: &str = "RABBIT_SABOTAGE";

/// The shell of root, who has no password: the one in which the machine's recipe ends, else after the login prompt. Of a testbed, it is
/// that of the first machine; for others give [`bed.dut(1)`](alpy::Testbed::dut).
///
/// # Errors
/// There is no prompt in time, or the kernel panics: that is an error at once.
pub async fn login(machine: &impl AsRef<Dut>) -> Result<RemoteShell> {
    Ok(machine.as_ref().log_in(&rabbit::guest()).await?)
}

/// Types a script in and runs it.
///
/// Behind the script of the rabbit itself, `configure-rabbit`, comes the one in the variable `RABBIT_SABOTAGE`, if that is set: it
/// breaks what the test is to look at. `cargo xtask rabbit-tests --sabotage` expects that the test says so.
pub async fn configure(shell: &mut RemoteShell, name: &str, script: &str) -> Result<()> {
    type_and_run(shell, name, script).await?;
    match std::env::var(SABOTAGE) {
        Ok(sabotage) if name == "configure-rabbit" => type_and_run(shell, "sabotage", &sabotage).await,
        _ => Ok(()),
    }
}

async fn type_and_run(shell: &mut RemoteShell, name: &str, script: &str) -> Result<()> {
    let path = format!("/root/{name}");
    let upload = shell.upload(&path, script);
    step!(target: "alpy::remote_shell", format!("Type in script {name}"), upload).await?;
    let execute = shell.execute(&path);
    step!(target: "alpy::remote_shell", format!("Run script {name}"), execute).await?;
    Ok(())
}

/// Reboots the system, waits for the login prompt, and logs in again: the shell of before is gone.
///
/// # Errors
/// The machine does not reset, or there is no prompt in time.
pub async fn reboot(machine: &impl AsRef<Dut>, shell: RemoteShell) -> Result<RemoteShell> {
    let machine = machine.as_ref();
    let before = machine.qmp().position();
    step!("Initiate system reboot", shell.console().send_line("reboot")).await?;
    let by_guest = |event: &Event| event.name == "RESET" && event.data["guest"] == true;
    let reset = machine
        .qmp()
        .wait_until("RESET by the guest", before, POWEROFF_LIMIT, by_guest);
    step!("Wait until the VM resets", reset).await?;
    let guest = rabbit::guest();
    let log_in = guest.log_in(shell.console());
    Ok(step!("Wait for the system to boot and log in", log_in).await?)
}

/// Shuts the system down and waits until the machine is off.
pub async fn poweroff(machine: &impl AsRef<Dut>, mut shell: RemoteShell) -> Result<()> {
    step!("Initiate system shutdown", rabbit::guest().power_off(&mut shell)).await?;
    machine.as_ref().wait_powered_down(POWEROFF_LIMIT).await?;
    Ok(())
}
