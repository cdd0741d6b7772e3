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

    /// The bytes of memory held.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Appends what came; the oldest bytes fall out where it gets too much.
    pub(crate) fn push(&mut self, chunk: &[u8]) {
        let (lost, chunk) = chunk.split_at(chunk.len().saturating_sub(self.limit));
        if !lost.is_empty() {
            // Nothing else would be left in the end, and the limit would not bound what is held until then.
            let unread = self.unread().len();
            self.skip(unread);
            self.position += lost.len() as u64;
            self.dropped += (unread + lost.len()) as u64;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_bytes_and_counts_the_rest() {
        let mut window = Window::new(10);
        window.push(b"01234567");
        assert_eq!(window.take(2), (b"01".to_vec(), 0));
        window.push(b"89abcdef");
        assert_eq!(window.unread(), b"6789abcdef");
        assert_eq!((window.position(), window.dropped()), (6, 4));
        assert_eq!(window.take(1), (b"6".to_vec(), 4));
        assert_eq!((window.position(), window.dropped()), (7, 0));
        window.push(b"a chunk of more than the limit");
        assert_eq!(window.unread(), b" the limit");
        assert_eq!(window.dropped(), 29);
    }

    #[test]
    fn a_chunk_larger_than_the_limit_takes_no_more_memory_than_that() {
        for limit in [0, 1, 10] {
            let mut window = Window::new(limit);
            window.push(b"seen");
            window.push(&[b'x'; 64 << 10]);
            assert_eq!(window.unread(), vec![b'x'; limit]);
            assert_eq!(window.dropped(), (4 + (64 << 10) - limit) as u64);
            assert_eq!(window.position(), window.dropped());
            assert!(window.capacity() <= 3 * limit, "{}", window.capacity());
        }
    }
}
