// SPDX-License-Identifier: GPL-3.0-or-later
//! The form of a message between the test and the helper: four bytes of length, little-endian, then JSON. Descriptors ride on
//! the first byte (`SCM_RIGHTS`, unix(7)).

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Request;

/// Raised when the meaning of a message changes: a helper of another build is told apart at once.
pub(crate) const VERSION: u32 = 1;

/// A request is a few hundred bytes; whatever is this long is not one.
const MAX_BYTES: usize = 16 << 20;

/// The first thing that the helper says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) alpy_netns: u32,
}

/// A message that goes out.
pub(crate) struct Outgoing<'a> {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: &'a [BorrowedFd<'a>],
}

impl<'a> Outgoing<'a> {
    pub(crate) fn new(message: &impl Serialize, descriptors: &'a [BorrowedFd<'a>]) -> io::Result<Self> {
        let mut bytes = vec![0; 4];
        serde_json::to_writer(&mut bytes, message)?;
        if bytes.len() > MAX_BYTES {
            return Err(too_long(bytes.len()));
        }
        let length = (bytes.len() - 4) as u32;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        Ok(Self {
            bytes,
            sent: 0,
            descriptors,
        })
    }

    /// Sends what the socket takes now; true when that was the last of it.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let raw: Vec<RawFd> = self.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if self.sent > 0 || raw.is_empty() {
            &[][..]
        } else {
            &rights[..]
        };
        let rest = [IoSlice::new(&self.bytes[self.sent..])];
        let flags = MsgFlags::MSG_NOSIGNAL;
        self.sent += sendmsg::<()>(socket.as_raw_fd(), &rest, control, flags, None)?;
        Ok(self.sent == self.bytes.len())
    }
}

/// Messages that come in.
#[derive(Default)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Incoming {
    /// Receives what is there now; false at the end of the stream.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        let mut chunk = [0; 16 << 10];
        let mut space = cmsg_space!([RawFd; Request::MAX_TAPS]);
        let mut buffers = [IoSliceMut::new(&mut chunk)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), flags)?;
        let received = message.bytes;
        // Every descriptor is owned before anything can fail.
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made these descriptors for this message, and nobody else has seen them.
                self.descriptors
                    .extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        if message.flags.contains(MsgFlags::MSG_CTRUNC) {
            return Err(io::Error::other(
                "some of the descriptors did not fit: is the limit on open files reached?",
            ));
        }
        self.bytes.extend_from_slice(&chunk[..received]);
        Ok(received > 0)
    }

    /// The next message, once it is there whole, with the descriptors that came with it.
    pub(crate) fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*head) as usize;
        if length > MAX_BYTES {
            return Err(too_long(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body)?;
        self.bytes.drain(..4 + length);
        Ok(Some((message, std::mem::take(&mut self.descriptors))))
    }
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a message of {length} bytes"))
}
