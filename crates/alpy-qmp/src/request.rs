// SPDX-License-Identifier: GPL-3.0-or-later
//! A command on its way: how it is to be sent, and its reply.

use std::borrow::Cow;
use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::client::Connection;
use crate::command::Line;
use crate::error::{Disconnect, Error, Result, ServerError, shorten};
use crate::session::{Failure, Lane, Outgoing, Shared};

/// A command that is sent when it is awaited.
///
/// ```no_run
/// # async fn example(client: alpy_qmp::Client) -> Result<(), alpy_qmp::Error> {
/// # use alpy_qmp::commands::QueryStatus;
/// # use std::time::Duration;
/// let status = client.execute(QueryStatus).timeout(Duration::from_secs(1)).await?;
/// # Ok(()) }
/// ```
///
/// Cancel safe for the connection: a request that is dropped before it was sent never is; dropped later, its reply is dropped
/// when it comes, and other commands go on undisturbed. Whether the command took effect is then not known.
///
/// # Errors
/// [`Error::Server`] for an error of the server, [`Error::Timeout`], [`Error::OutcomeUnknown`] and [`Error::Disconnected`] for
/// a connection that ended after and before sending, [`Error::Decode`] for a reply of another shape.
#[must_use = "a command is sent when it is awaited"]
pub struct Request<R> {
    connection: Arc<Connection>,
    name: Cow<'static, str>,
    arguments: Result<String>,
    out_of_band: bool,
    descriptor: Option<OwnedFd>,
    timeout: Duration,
    reply: PhantomData<fn() -> R>,
}

impl<R> Request<R> {
    pub(crate) fn new(
        connection: Arc<Connection>,
        name: Cow<'static, str>,
        arguments: Result<String>,
    ) -> Self {
        let timeout = connection.shared.0.options.command_timeout;
        Self {
            connection,
            name,
            arguments,
            out_of_band: false,
            descriptor: None,
            timeout,
            reply: PhantomData,
        }
    }

    /// How long to wait for the reply, instead of [`Options::command_timeout`](crate::Options::command_timeout). The time in
    /// which other commands are ahead counts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends a descriptor with the command, for `getfd` and `add-fd`. This side's copy is closed once it is sent.
    ///
    /// Several such commands at once are sent one after another, because QEMU keeps only the last descriptor it received.
    pub fn descriptor(mut self, descriptor: impl Into<OwnedFd>) -> Self {
        self.descriptor = Some(descriptor.into());
        self
    }

    /// Has the server execute the command at once, past those that it is busy with (QEMU, docs/interop/qmp-spec, "Out-of-band
    /// execution"). Only few commands may: the schema says which (`allow-oob`).
    pub fn out_of_band(mut self) -> Self {
        self.out_of_band = true;
        self
    }

    /// Takes the reply as another type, [`Box<RawValue>`](RawValue) for the text as it came.
    pub fn reply_as<T>(self) -> Request<T> {
        let Self {
            connection,
            name,
            arguments,
            out_of_band,
            descriptor,
            timeout,
            reply: _,
        } = self;
        Request {
            connection,
            name,
            arguments,
            out_of_band,
            descriptor,
            timeout,
            reply: PhantomData,
        }
    }
}

impl<R: DeserializeOwned + 'static> IntoFuture for Request<R> {
    type Output = Result<R>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<R>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (verb, lane) = if self.out_of_band {
                ("exec-oob", Lane::OutOfBand)
            } else {
                ("execute", Lane::InBand)
            };
            let line = Line::new(verb, &self.name, &self.arguments?)?;
            if self.out_of_band && !self.connection.out_of_band {
                return Err(Error::NoOutOfBand {
                    command: line.shown(),
                });
            }
            let command = Outgoing {
                line: line.clone(),
                lane,
                descriptor: self.descriptor,
            };
            let reply = round_trip(&self.connection.shared.0, command, self.timeout).await?;
            serde_json::from_str(reply.get()).map_err(|source| Error::Decode {
                command: line.shown(),
                reply: shorten(reply.get()),
                source: source.into(),
            })
        })
    }
}

impl<R> fmt::Debug for Request<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("name", &self.name)
            .field("arguments", &self.arguments)
            .field("out_of_band", &self.out_of_band)
            .field("descriptor", &self.descriptor)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Sends a command and waits for what becomes of it.
pub(crate) async fn round_trip(
    shared: &Shared,
    command: Outgoing,
    timeout: Duration,
) -> Result<Box<RawValue>> {
    let line = command.line.clone();
    if command.descriptor.is_some() && !shared.state().carries_descriptors() {
        return Err(Error::NoDescriptors {
            command: line.shown(),
        });
    }
    let (ticket, outcome) = shared.submit(command).map_err(|source| Error::Disconnected {
        wanted: format!("{} was sent", line.shown()),
        source,
    })?;
    let _withdrawal = Withdrawal { shared, ticket };
    let outcome = match tokio::time::timeout(timeout, outcome).await {
        // Dropped without a word, which takes a panic of the wire log.
        Ok(outcome) => outcome.unwrap_or(Err(Failure::Unknown(Disconnect::Closed))),
        Err(_) => {
            let sent = !shared.withdraw(ticket);
            return Err(Error::Timeout {
                command: line.shown(),
                after: timeout,
                sent,
            });
        }
    };
    outcome.map_err(|failure| {
        let command = line.shown();
        match failure {
            Failure::Server(class, desc) => ServerError {
                class: class.as_str().into(),
                desc,
                command,
            }
            .into(),
            Failure::Unsent(source) => Error::Disconnected {
                wanted: format!("{command} was sent"),
                source,
            },
            Failure::Unknown(source) => Error::OutcomeUnknown { command, source },
        }
    })
}

/// Takes a command back when nobody waits for it any more.
struct Withdrawal<'a> {
    shared: &'a Shared,
    ticket: u64,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        self.shared.withdraw(self.ticket);
    }
}
