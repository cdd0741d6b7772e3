// SPDX-License-Identifier: GPL-3.0-or-later
//! Servers in containers, which may end while a test waits for something of theirs.

use std::time::Duration;

use alpy::docker::Running;
use anyhow::{Context, Result, bail};

/// Longer than any test; the caller's work has a limit of its own.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// Does some work for which a server has to run. Cancel safe if the work is.
///
/// # Errors
/// Those of the work. If the server ends first: how, and what it printed.
pub async fn while_running<T>(server: &Running, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        // If both are over, the server's end is why the work failed.
        biased;
        ended = server.wait(FOREVER) => {
            let output = ended.context("wait for the end of a server")?.success().context("the server has ended")?;
            bail!("the server {:?} has ended with status 0; it printed {:?}", output.argv, output.stderr_text())
        }
        done = work => done,
    }
}

/// Stops a server by a signal.
///
/// # Errors
/// It has ended before: how, and what it printed. The engine does not answer.
pub(crate) async fn stop(server: Running, signal: &str) -> Result<()> {
    while_running(&server, async { Ok(()) }).await?;
    server.stop(signal, Duration::from_secs(5)).await?;
    Ok(())
}
