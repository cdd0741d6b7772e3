// SPDX-License-Identifier: GPL-3.0-or-later
//! The life of a rabbit: boot, login, configuration, power off.

use std::time::Duration;

use alpy::console::RemoteShell;
use alpy::{Testbed, step};
use anyhow::Result;

/// How long the system may take from the CPU's start to the login prompt. A busy machine without KVM takes its time.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// How long the system may take to power off.
const POWEROFF_LIMIT: Duration = Duration::from_secs(60);

const STEP_LIMIT: Duration = Duration::from_secs(20);

/// Waits for the login prompt and logs in as root, who has no password.
pub async fn login(bed: &Testbed) -> Result<RemoteShell> {
    let console = bed.console();
    step!(
        "Wait for the system to boot",
        console.expect("rabbit login: ", BOOT_LIMIT)
    )
    .await?;
    let login = async {
        console.send_line("root").await?;
        RemoteShell::builder(console.clone(), "rabbit# ")
            .deadline(STEP_LIMIT)
            .quiet_kernel()
            .attach()
            .await
    };
    Ok(step!("Login to the system", login).await?)
}

/// Types a script in and runs it.
pub async fn configure(shell: &mut RemoteShell, name: &str, script: &str) -> Result<()> {
    let path = format!("/root/{name}");
    let upload = shell.upload(&path, script);
    step!(target: "alpy::remote_shell", format!("Type in script {name}"), upload).await?;
    let execute = shell.execute(&path);
    step!(target: "alpy::remote_shell", format!("Run script {name}"), execute).await?;
    Ok(())
}

/// Shuts the system down and waits until the machine is off.
pub async fn poweroff(bed: &Testbed, shell: RemoteShell) -> Result<()> {
    step!("Initiate system shutdown", shell.console().send_line("poweroff")).await?;
    bed.wait_powered_down(POWEROFF_LIMIT).await?;
    Ok(())
}
