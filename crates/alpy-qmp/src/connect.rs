// SPDX-License-Identifier: GPL-3.0-or-later
//! Ways to a connection.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tracing::Instrument;

use crate::client::{Client, CloseOnDrop};
use crate::command::Line;
use crate::error::{Disconnect, Error, Result};
use crate::options::Options;
use crate::request::round_trip;
use crate::session::{Lane, Outgoing, Shared};
use crate::transport::Transport;

impl Options {
    /// Connects to a server that listens on `path`, as QEMU does with `-qmp unix:path,server=on,wait=off`.
    ///
    /// While nobody listens there it is tried again: QEMU takes a moment to get that far.
    ///
    /// Cancel safe: a connection that was begun is closed.
    ///
    /// # Errors
    /// [`Error::Connect`]; then as [`attach`](Self::attach).
    pub async fn connect(self, path: impl AsRef<Path>) -> Result<Client> {
        let path = path.as_ref();
        let deadline = Instant::now() + self.greeting_timeout;
        let socket = match open(path, deadline).await {
            Ok(socket) => socket,
            Err(source) => {
                return Err(Error::Connect {
                    path: path.to_owned(),
                    after: self.greeting_timeout,
                    source,
                });
            }
        };
        handshake(Transport::Unix(socket), self, deadline).await
    }

    /// Listens on `path`, for a server that connects, as QEMU does with
    /// `-chardev socket,id=qmp,path=path,server=off -qmp chardev:qmp`.
    ///
    /// # Errors
    /// [`Error::Listen`], also when a file of this name exists.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as [`UnixListener::bind`] does.
    pub fn listen(self, path: impl AsRef<Path>) -> Result<Listener> {
        let path = path.as_ref().to_owned();
        match UnixListener::bind(&path) {
            Ok(listener) => Ok(Listener {
                listener,
                path,
                options: self,
            }),
            Err(source) => Err(Error::Listen { path, source }),
        }
    }

    /// Takes over a socket whose other end a server has: one of [`UnixStream::pair`], best. The server inherits the other as
    /// descriptor N, `-chardev socket,id=qmp,fd=N -qmp chardev:qmp`. There is then no socket file, nobody else
    /// can connect, and the end of either side is noticed at once.
    ///
    /// Cancel safe: the connection is closed.
    ///
    /// # Errors
    /// [`Error::GreetingTimeout`], [`Error::Disconnected`] when the server ends or does not speak QMP, and as any command.
    pub async fn attach(self, socket: UnixStream) -> Result<Client> {
        let deadline = Instant::now() + self.greeting_timeout;
        handshake(Transport::Unix(socket), self, deadline).await
    }

    /// Takes over any stream to a server: TCP, TLS, pipes. Descriptors cannot be passed on it.
    ///
    /// Cancel safe: the connection is closed.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub async fn attach_stream(self, stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Result<Client> {
        let deadline = Instant::now() + self.greeting_timeout;
        handshake(Transport::Stream(Box::pin(stream)), self, deadline).await
    }
}

/// A socket that waits for servers to connect. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    options: Options,
}

impl Listener {
    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a server to connect and to greet, within [`Options::greeting_timeout`] in all. May be called again, for a
    /// server that comes back (`reconnect-ms=` of QEMU's chardev, `reconnect=` before QEMU 9.2).
    ///
    /// Cancel safe: a connection that was begun is closed.
    ///
    /// # Errors
    /// [`Error::AcceptTimeout`]; then as [`Options::attach`].
    pub async fn accept(&self) -> Result<Client> {
        let after = self.options.greeting_timeout;
        let deadline = Instant::now() + after;
        let path = || self.path.clone();
        match timeout_at(deadline, self.listener.accept()).await {
            Ok(Ok((socket, _))) => handshake(Transport::Unix(socket), self.options.clone(), deadline).await,
            Ok(Err(source)) => Err(Error::Listen { path: path(), source }),
            Err(_) => Err(Error::AcceptTimeout { path: path(), after }),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "cannot remove the QMP socket");
        }
    }
}

/// A file can only be watched for its appearance, not for being listened on, so this looks every few milliseconds.
async fn open(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let mut look = interval(Duration::from_millis(5));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let error = match timeout_at(deadline, UnixStream::connect(path)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => error,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let not_yet = matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        );
        if !not_yet || Instant::now() >= deadline {
            return Err(error);
        }
    }
}

async fn handshake(transport: Transport, options: Options, deadline: Instant) -> Result<Client> {
    let after = options.greeting_timeout;
    let (shared, reader, greeting) = Shared::new(transport, options);
    let shared = CloseOnDrop(shared);
    tokio::spawn(reader.in_current_span());
    let greeting = match timeout_at(deadline, greeting).await {
        Ok(Ok(greeting)) => greeting,
        Ok(Err(_)) => {
            let source = shared.0.state().closed.clone().unwrap_or(Disconnect::Closed);
            return Err(Error::Disconnected {
                wanted: "the greeting".to_owned(),
                source,
            });
        }
        Err(_) => return Err(Error::GreetingTimeout { after }),
    };
    let out_of_band = greeting.capabilities.iter().any(|capability| capability == "oob");
    let arguments = if out_of_band {
        r#"{"enable":["oob"]}"#
    } else {
        "{}"
    };
    let line = Line::new("execute", "qmp_capabilities", arguments)?;
    let command = Outgoing {
        line,
        lane: Lane::InBand,
        descriptor: None,
    };
    round_trip(
        &shared.0,
        command,
        deadline.saturating_duration_since(Instant::now()),
    )
    .await?;
    tracing::debug!(version = %greeting.version.qemu, out_of_band, "QMP connection stands");
    Ok(Client::new(shared, greeting, out_of_band))
}
