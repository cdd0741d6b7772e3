// SPDX-License-Identifier: GPL-3.0-or-later
//! The bytes' way: a unix socket, which can carry descriptors, or any other stream.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Any stream of bytes in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

pub(crate) enum Transport {
    Unix(UnixStream),
    Stream(Pin<Box<dyn Duplex>>),
}

impl Transport {
    pub(crate) fn carries_descriptors(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(room);
        ready!(match self {
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, &mut room),
            Self::Stream(stream) => stream.as_mut().poll_read(cx, &mut room),
        })?;
        Poll::Ready(Ok(room.filled().len()))
    }

    /// Writes some of the bytes. A descriptor goes in the same message, so that nothing gets between the two.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        descriptor: Option<&OwnedFd>,
    ) -> Poll<io::Result<usize>> {
        let written = match (self, descriptor) {
            (Self::Unix(socket), None) => ready!(Pin::new(socket).poll_write(cx, bytes)),
            (Self::Unix(socket), Some(descriptor)) => loop {
                ready!(socket.poll_write_ready(cx))?;
                let sent = socket.try_io(Interest::WRITABLE, || send(socket, bytes, descriptor));
                match sent {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    sent => break sent,
                }
            },
            (Self::Stream(stream), _) => ready!(stream.as_mut().poll_write(cx, bytes)),
        };
        Poll::Ready(match written {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            written => written,
        })
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(socket) => Pin::new(socket).poll_flush(cx),
            Self::Stream(stream) => stream.as_mut().poll_flush(cx),
        }
    }
}

fn send(socket: &UnixStream, bytes: &[u8], descriptor: &OwnedFd) -> io::Result<usize> {
    let descriptors = [descriptor.as_raw_fd()];
    loop {
        let sent = sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Err(nix::errno::Errno::EINTR) => {}
            sent => return sent.map_err(io::Error::from),
        }
    }
}
