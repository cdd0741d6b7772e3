// SPDX-License-Identifier: GPL-3.0-or-later
//! The output of a container or of a command in one: bounded, and known to be whole or not.

use bollard::container::LogOutput;
use bytes::Bytes;

use crate::Stream;

/// What was written, each stream bounded.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) stdout: Kept,
    pub(crate) stderr: Kept,
    /// Why the engine's stream did not deliver all of it.
    broken: Option<String>,
}

impl Log {
    /// Adds what the engine's stream delivered, and returns it with its channel.
    ///
    /// Without a terminal, the engine sends frames with headers. bollard turns bytes that do not belong to a whole frame into a
    /// [`LogOutput::Console`], so one of these means that the stream ended within a frame or is damaged.
    pub(crate) fn take(&mut self, chunk: LogOutput) -> (Stream, Bytes) {
        if matches!(chunk, LogOutput::Console { .. }) {
            self.breaks("the engine's stream ended within a frame, or is damaged");
        }
        let (stream, bytes) = match chunk {
            LogOutput::StdErr { message } => (Stream::Stderr, message),
            other => (Stream::Stdout, other.into_bytes()),
        };
        match stream {
            Stream::Stdout => self.stdout.add(&bytes),
            Stream::Stderr => self.stderr.add(&bytes),
        }
        (stream, bytes)
    }

    /// Notes why a part of the output is missing. The first reason stays.
    pub(crate) fn breaks(&mut self, reason: impl Into<String>) {
        self.broken.get_or_insert_with(|| reason.into());
    }

    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Why a part of the output is missing; `None` if it is whole.
    pub(crate) fn incomplete(&self) -> Option<String> {
        let gone = self.stdout.gone + self.stderr.gone;
        let bounded = || {
            format!(
                "its first {gone} bytes are gone: the last 16 MiB of each stream are kept; remedy: less output, or Container::on_output"
            )
        };
        let broken = self.broken.clone();
        broken.or_else(|| (gone > 0).then(bounded))
    }
}

/// The latest bytes of a stream: at least [`Kept::LEAST`] of them, at most twice as many.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: Vec<u8>,
    /// How many older ones are gone.
    gone: usize,
}

impl Kept {
    const LEAST: usize = 16 << 20;

    fn add(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > 2 * Self::LEAST {
            let excess = self.bytes.len().saturating_sub(Self::LEAST);
            self.bytes.drain(..excess);
            self.gone += excess;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.bytes)
    }

    /// Looks for a needle from a position, counted from the first byte ever, and moves the position to where the next look has
    /// to begin.
    pub(crate) fn find(&self, needle: &[u8], from: &mut usize) -> bool {
        let start = from.saturating_sub(self.gone).min(self.bytes.len());
        let found = needle.is_empty()
            || self.bytes[start..]
                .windows(needle.len())
                .any(|window| window == needle);
        *from = (self.gone + self.bytes.len() + 1).saturating_sub(needle.len().max(1));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_output_goes_first() {
        let mut kept = Kept::default();
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..100 {
            kept.add(&chunk);
            assert!(kept.bytes.len() <= 2 * Kept::LEAST);
        }
        kept.add(b"end");
        assert!(kept.bytes.len() > Kept::LEAST && kept.bytes().ends_with(b"xend"));
        assert_eq!(kept.gone + kept.bytes.len(), (100 << 20) + 3);
    }

    #[test]
    fn a_needle_is_found_across_pieces_and_looked_for_once() {
        let mut kept = Kept::default();
        let mut from = 0;
        for piece in ["", "list", "en", "in"] {
            kept.add(piece.as_bytes());
            assert!(!kept.find(b"listening", &mut from), "{piece:?}");
        }
        kept.add(b"g\n");
        assert!(kept.find(b"listening", &mut from));
        // The next look begins where a needle could begin that has not been seen whole.
        assert_eq!(from, "listening\n".len() - "listening".len() + 1);
        assert!(!kept.find(b"listening", &mut from));
        assert!(kept.find(b"", &mut from));
    }

    #[test]
    fn a_needle_is_found_after_the_oldest_output_is_gone() {
        let mut kept = Kept::default();
        let mut from = 0;
        for _ in 0..40 {
            kept.add(&vec![b'x'; 1 << 20]);
            assert!(!kept.find(b"ready", &mut from));
        }
        kept.add(b"ready");
        assert!(kept.find(b"ready", &mut from));
    }
}
