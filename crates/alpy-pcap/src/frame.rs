// SPDX-License-Identifier: GPL-3.0-or-later
//! A frame as it was captured.

use std::borrow::Cow;
use std::time::Duration;

/// A captured frame: bytes, a timestamp and the length on the wire.
///
/// A frame borrows its bytes from the reader that gave it; [`into_owned`](Self::into_owned) makes one that may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    timestamp: Duration,
    original_len: u32,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Frame<'a> {
    /// A frame of `bytes` that was captured whole.
    pub fn new(timestamp: Duration, bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        let bytes = bytes.into();
        let original_len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self {
            timestamp,
            original_len,
            bytes,
        }
    }

    /// A frame of which only the first bytes were captured.
    #[inline]
    pub(crate) fn captured(timestamp: Duration, original_len: u32, bytes: &'a [u8]) -> Self {
        Self {
            timestamp,
            original_len,
            bytes: Cow::Borrowed(bytes),
        }
    }

    /// When the frame was captured, since 1970-01-01 00:00 UTC, by the clock of who wrote the capture.
    ///
    /// QEMU's clock there is the guest's: it starts from the whole second at which the dump was added, and stands still while the
    /// machine is stopped. Compare times of one capture, never of two. They may go backwards: subtract with
    /// [`Duration::saturating_sub`] or [`Duration::abs_diff`].
    #[inline]
    pub fn timestamp(&self) -> Duration {
        self.timestamp
    }

    /// The bytes captured, beginning with the destination's MAC address.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The length of the frame on the wire in bytes, which is more than was captured if the capture was told to keep less.
    #[inline]
    pub fn original_len(&self) -> u32 {
        self.original_len
    }

    /// Whether fewer bytes were captured than were on the wire.
    pub fn is_truncated(&self) -> bool {
        (self.original_len as usize) > self.bytes.len()
    }

    /// The same frame with bytes of its own.
    pub fn into_owned(self) -> Frame<'static> {
        Frame {
            timestamp: self.timestamp,
            original_len: self.original_len,
            bytes: Cow::Owned(self.bytes.into_owned()),
        }
    }
}
