// SPDX-License-Identifier: GPL-3.0-or-later
//! The unread bytes of a console, of which only the newest are kept.

/// What came and was not read yet, at most `limit` bytes of it.
pub(crate) struct Window {
    /// Dead bytes up to `start`, unread ones from there.
    bytes: Vec<u8>,
    start: usize,
    position: u64,
    dropped: u64,
    limit: usize,
}

impl Window {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
            position: 0,
            dropped: 0,
            limit,
        }
    }

    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Where [`unread`](Self::unread) begins in the stream.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that fell out since the last read.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Appends what came; the oldest bytes fall out where it gets too much.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        self.reclaim();
        let needed = self.bytes.len() + chunk.len();
        if needed > self.bytes.capacity() {
            // Not what `Vec` does by itself: that could end at four times the limit.
            let growth = self.unread().len().max(chunk.len());
            self.bytes.reserve_exact(growth);
        }
        self.bytes.extend_from_slice(chunk);
        let excess = self.unread().len().saturating_sub(self.limit);
        self.skip(excess);
        self.dropped += excess as u64;
    }

    /// Reads `count` bytes and forgets what fell out in front of them; says how much that was.
    pub(crate) fn take(&mut self, count: usize) -> (Vec<u8>, u64) {
        let taken = self.unread()[..count].to_vec();
        self.skip(count);
        (taken, std::mem::take(&mut self.dropped))
    }

    fn skip(&mut self, count: usize) {
        self.start += count;
        self.position += count as u64;
    }

    /// Moves the unread bytes to the front when they are fewer than the dead ones, so that each byte moves once at most.
    fn reclaim(&mut self) {
        if self.start > 0 && self.start >= self.unread().len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }
}
