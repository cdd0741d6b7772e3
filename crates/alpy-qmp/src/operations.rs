// SPDX-License-Identifier: GPL-3.0-or-later
//! What takes more than one command.

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::client::Client;
use crate::commands::{DeviceDel, JobDismiss, QueryCommands, QueryJobs, Quit};
use crate::error::{Disconnect, Error, Result};
use crate::request::Request;

impl Client {
    /// Ends the server and waits until it has closed the connection. The process may take a moment longer.
    ///
    /// A server that ends while the command is under way, or that had already ended, has done what is asked. One that was
    /// stopped for longer than `timeout` is an error.
    ///
    /// Not cancel safe: the command may be sent or not.
    ///
    /// # Errors
    /// [`Error::Timeout`], and what the server answers.
    pub async fn quit(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        match self.execute(Quit).timeout(timeout).await {
            Ok(_) => {}
            Err(Error::OutcomeUnknown {
                source: Disconnect::Eof,
                ..
            })
            | Err(Error::Disconnected {
                source: Disconnect::Eof,
                ..
            }) => return Ok(()),
            Err(error) => return Err(error),
        }
        match self
            .wait_disconnected(deadline.saturating_duration_since(Instant::now()))
            .await
        {
            Some(_) => Ok(()),
            None => Err(Error::EventTimeout {
                wanted: "end of the connection after quit".to_owned(),
                after: timeout,
                waited: timeout,
                last_events: self.last_events_text(),
            }),
        }
    }

    /// Whether the server has a command.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// As any command.
    pub async fn has_command(&self, name: &str) -> Result<bool> {
        let commands = self.execute(QueryCommands).await?;
        Ok(commands.iter().any(|command| command.name == name))
    }

    /// Takes a device out, and waits until the guest has given it up and it is gone. A guest that does not run never does.
    ///
    /// Cancel safe for the connection; the guest stays asked.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for) and any command.
    pub async fn unplug(&self, id: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let before = self.position();
        self.execute(DeviceDel { id: id.to_owned() })
            .timeout(timeout)
            .await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let wanted = format!("DEVICE_DELETED of {id}");
        let gone = |event: &crate::Event| event.name == "DEVICE_DELETED" && event.data["device"] == id;
        self.wait_until(&wanted, before, left, gone).await?;
        Ok(())
    }

    /// Runs a job from the command that starts it to its end, and has the server forget it.
    ///
    /// `start` has to give the job the id `id`, as with `client.execute_raw("snapshot-save", json!({"job-id": id, ...}))`. The
    /// command itself succeeds even if the job then fails; this is where the job's error comes out.
    ///
    /// Not cancel safe: the job goes on, and its id stays taken.
    ///
    /// # Errors
    /// [`Error::Job`]; as [`wait_for`](Self::wait_for) and any command.
    pub async fn run_job<R>(&self, id: &str, start: Request<R>, timeout: Duration) -> Result<()>
    where
        R: DeserializeOwned + 'static,
    {
        let deadline = Instant::now() + timeout;
        let before = self.position();
        start.await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let wanted = format!("JOB_STATUS_CHANGE of {id} to concluded");
        let ended = |event: &crate::Event| {
            event.name == "JOB_STATUS_CHANGE" && event.data["id"] == id && event.data["status"] == "concluded"
        };
        self.wait_until(&wanted, before, left, ended).await?;
        let jobs = self.execute(QueryJobs).await?;
        let job = jobs.into_iter().find(|job| job.id == id);
        self.execute(JobDismiss { id: id.to_owned() }).await?;
        match job.and_then(|job| job.error) {
            Some(message) => Err(Error::Job {
                id: id.to_owned(),
                message,
            }),
            None => Ok(()),
        }
    }
}
