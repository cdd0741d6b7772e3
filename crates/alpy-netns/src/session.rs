// SPDX-License-Identifier: GPL-3.0-or-later
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::wire::{Hello, Incoming, Outgoing, VERSION};
use crate::{Answer, Error, Loan, Operation, Reply, Request, Result};

/// A connection to a running helper, which ends when this is dropped.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    /// Whether an exchange began that did not end: what comes next on the stream is then anybody's guess.
    broken: bool,
}

impl Session {
    /// Has the helper do what the request says, within the time given.
    ///
    /// # Errors
    /// [`Error::Request`] before anything is sent, [`Error::Failed`] when the helper refused or undid it. After any other
    /// error the session is of no more use, and whether the request was carried out is not known.
    ///
    /// # Cancel safety
    /// Not cancel safe: if the future is dropped, the helper may still carry the request out, with the taps closed at once as
    /// nobody takes them, and further requests on this session fail with [`Error::Abandoned`].
    pub async fn run(&mut self, request: &Request, within: Duration) -> Result<Answer> {
        self.run_passing(request, &[], within).await
    }

    /// Like [`Session::run`], with descriptors for the helper: the namespaces that the request calls
    /// [`Namespace::Passed`](crate::Namespace::Passed).
    ///
    /// # Errors
    /// As [`Session::run`].
    ///
    /// # Cancel safety
    /// As [`Session::run`].
    pub async fn run_passing(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
        within: Duration,
    ) -> Result<Answer> {
        request.check()?;
        if self.broken {
            return Err(Error::Abandoned);
        }
        self.broken = true;
        let expected = "answer";
        let exchange = async {
            send(&self.stream, request, descriptors).await?;
            receive::<Reply>(&self.stream, expected).await
        };
        let (reply, taps) = timeout(within, exchange).await.map_err(|_| Error::Timeout {
            expected,
            waited: within,
        })??;
        self.broken = false;
        match reply {
            Reply::Failed(failure) => Err(Error::Failed(failure)),
            Reply::Done { links } => {
                let asked =
                    |wanted: fn(&&Operation) -> bool| request.operations.iter().filter(wanted).count();
                let by_descriptor =
                    asked(|step| matches!(step, Operation::CreateTap { end, .. } if end.has_descriptor()));
                if taps.len() != by_descriptor {
                    let reason = format!("{} descriptors came for {by_descriptor} taps", taps.len());
                    return Err(Error::Protocol { reason });
                }
                tracing::debug!(
                    steps = request.operations.len(),
                    taps = taps.len(),
                    "the helper is done"
                );
                Ok(Answer { taps, links })
            }
        }
    }

    /// Like [`Session::run`], in the namespace that the loan is of. There can be one tap in the request, and no other namespace.
    ///
    /// # Errors
    /// As [`Session::run`].
    ///
    /// # Cancel safety
    /// As [`Session::run`].
    pub async fn run_on(&mut self, loan: Loan, request: &Request, within: Duration) -> Result<Answer> {
        let request = Request {
            lent: true,
            ..request.clone()
        };
        self.run_passing(&request, &loan.descriptors(), within).await
    }

    /// Greets a helper that has connected.
    pub(crate) async fn greet(stream: UnixStream) -> Result<Self> {
        hello(&stream).await?;
        Ok(Self {
            stream,
            broken: false,
        })
    }
}

/// Takes the loan of a holder that has connected.
pub(crate) async fn take_loan(stream: &UnixStream) -> Result<Loan> {
    Loan::received(hello(stream).await?).map_err(|count| Error::Protocol {
        reason: format!("{count} descriptors came for a loan"),
    })
}

/// Hears which protocol the other side speaks; returns the descriptors that came along.
async fn hello(stream: &UnixStream) -> Result<Vec<OwnedFd>> {
    let (hello, descriptors) = receive::<Hello>(stream, "connect").await?;
    if hello.alpy_netns != VERSION {
        let reason = format!(
            "it speaks version {} of the protocol, not {VERSION}",
            hello.alpy_netns
        );
        return Err(Error::Protocol { reason });
    }
    Ok(descriptors)
}

async fn send(stream: &UnixStream, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut outgoing = Outgoing::new(message, descriptors).map_err(Error::Connection)?;
    while !stream
        .async_io(Interest::WRITABLE, || outgoing.send(stream.as_fd()))
        .await
        .map_err(Error::Connection)?
    {}
    Ok(())
}

async fn receive<T: DeserializeOwned>(
    stream: &UnixStream,
    expected: &'static str,
) -> Result<(T, Vec<OwnedFd>)> {
    let mut incoming = Incoming::default();
    loop {
        match incoming.take() {
            Ok(Some(message)) => return Ok(message),
            Ok(None) => {}
            Err(error) => {
                return Err(Error::Protocol {
                    reason: error.to_string(),
                });
            }
        }
        match stream
            .async_io(Interest::READABLE, || incoming.receive(stream.as_fd()))
            .await
        {
            Ok(true) => {}
            Ok(false) => return Err(Error::HelperGone { expected }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(Error::HelperGone { expected });
            }
            Err(error) => return Err(Error::Connection(error)),
        }
    }
}
