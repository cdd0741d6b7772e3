// SPDX-License-Identifier: GPL-3.0-or-later
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Serialize;

use super::carry_out::carry_out;
use crate::wire::{Hello, Incoming, Outgoing, VERSION};
use crate::{Failure, Reply, Request};

/// Connects to a [`Listener`](crate::Listener)'s socket and works off requests until the other side closes.
///
/// # Errors
/// The socket is not there, or the connection broke, or what came is no request.
pub fn serve(socket: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    send(&stream, &Hello { alpy_netns: VERSION }, &[])?;
    let mut incoming = Incoming::default();
    while let Some((request, passed)) = next(&stream, &mut incoming)? {
        let (reply, taps) = match carry_out(&request, passed) {
            Ok(answer) => (Reply::Done { links: answer.links }, answer.taps),
            Err(failure) => (Reply::Failed(failure), Vec::new()),
        };
        let taps: Vec<BorrowedFd<'_>> = taps.iter().map(OwnedFd::as_fd).collect();
        send(&stream, &reply, &taps)?;
    }
    Ok(())
}

fn next(stream: &UnixStream, incoming: &mut Incoming) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
    loop {
        match incoming.take() {
            Ok(None) => {}
            Ok(message) => return Ok(message),
            Err(error) => {
                let operation = "read the request".to_owned();
                let failure = Failure {
                    step: 0,
                    operation,
                    reason: error.to_string(),
                    left: Vec::new(),
                };
                send(stream, &Reply::Failed(failure), &[])?;
                return Err(error);
            }
        }
        if !incoming.receive(stream.as_fd())? {
            return Ok(None);
        }
    }
}

/// Sends one message whole.
pub(super) fn send(
    stream: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut outgoing = Outgoing::new(message, descriptors)?;
    while !outgoing.send(stream.as_fd())? {}
    Ok(())
}
