// SPDX-License-Identifier: GPL-3.0-or-later
//! How much there was when.

use std::time::Duration;

use crate::{Capture, Error, Packet, Volume};

impl Volume {
    /// Bits per second, if it took so long.
    pub fn bits_per_second(self, time: Duration) -> f64 {
        self.bytes as f64 * 8.0 / time.as_secs_f64()
    }
}

impl Capture {
    /// The most intervals that [`over_time`](Self::over_time) makes.
    pub const MOST_INTERVALS: usize = 1_000_000;

    /// What `predicate` holds for, interval by interval: the first one begins with the first such packet, and none is left out
    /// between that and the last. A packet whose time is before that of the first one counts for the first interval.
    ///
    /// # Errors
    /// [`Error::Intervals`] if the length is zero, or if there would be more than [`Capture::MOST_INTERVALS`]; as
    /// [`Reader::open`](crate::Reader::open) and [`Reader::next_frame`](crate::Reader::next_frame).
    pub fn over_time(
        &self,
        length: Duration,
        mut predicate: impl FnMut(&Packet<'_>) -> bool,
    ) -> Result<Vec<Volume>, Error> {
        let mut intervals: Vec<Volume> = Vec::new();
        let mut first = None;
        let mut too_many = length.is_zero();
        self.for_each(|packet| {
            if too_many || !predicate(packet) {
                return;
            }
            let time = packet.frame().timestamp();
            let since = time.saturating_sub(*first.get_or_insert(time));
            let index = usize::try_from(since.as_nanos() / length.as_nanos()).unwrap_or(usize::MAX);
            if index >= Self::MOST_INTERVALS {
                too_many = true;
                return;
            }
            if index >= intervals.len() {
                intervals.resize(index + 1, Volume::default());
            }
            intervals[index].add(packet);
        })?;
        if too_many {
            return Err(Error::Intervals {
                origin: self.path().display().to_string(),
                length,
            });
        }
        Ok(intervals)
    }
}
