// SPDX-License-Identifier: GPL-3.0-or-later
//! How much there was when.

use std::time::Duration;

use crate::{Capture, Error, Packet};

/// What a capture shows of a length of time; see [`Capture::over_time`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interval {
    /// Frames.
    pub frames: u64,
    /// Their lengths on the wire in bytes, Ethernet headers included.
    pub bytes: u64,
}

impl Interval {
    /// The most that [`Capture::over_time`] makes of a capture.
    pub const MOST: usize = 1_000_000;

    /// Bits per second, if this is an interval of that length.
    pub fn bits_per_second(self, length: Duration) -> f64 {
        self.bytes as f64 * 8.0 / length.as_secs_f64()
    }
}

impl Capture {
    /// What `predicate` holds for, interval by interval: the first one begins with the first such packet, and none is left out
    /// between that and the last. A packet whose time is before that of the first one counts for the first interval.
    ///
    /// # Errors
    /// [`Error::Intervals`] if the length is zero, or if there would be more than [`Interval::MOST`]; as
    /// [`Reader::open`](crate::Reader::open) and [`Reader::next_frame`](crate::Reader::next_frame).
    pub fn over_time(
        &self,
        length: Duration,
        mut predicate: impl FnMut(&Packet<'_>) -> bool,
    ) -> Result<Vec<Interval>, Error> {
        let mut intervals: Vec<Interval> = Vec::new();
        let mut first = None;
        let mut too_many = length.is_zero();
        self.for_each(|packet| {
            if too_many || !predicate(packet) {
                return;
            }
            let time = packet.frame().timestamp();
            let since = time.saturating_sub(*first.get_or_insert(time));
            let index = usize::try_from(since.as_nanos() / length.as_nanos()).unwrap_or(usize::MAX);
            if index >= Interval::MOST {
                too_many = true;
                return;
            }
            if index >= intervals.len() {
                intervals.resize(index + 1, Interval::default());
            }
            intervals[index].frames += 1;
            intervals[index].bytes += u64::from(packet.frame().original_len());
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
