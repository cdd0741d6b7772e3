// SPDX-License-Identifier: GPL-3.0-or-later
//! How much went over a link when.

/// How many points a plot has at most.
const POINTS: f64 = 160.0;

/// The shortest interval of a plot, in seconds.
pub(super) const SHORTEST: f64 = 0.01;

/// Bits per second.
#[derive(Debug, PartialEq)]
pub(super) struct Rates {
    /// When the first interval begins, in seconds since the run began.
    pub(super) begin: f64,
    /// How long each is, in seconds.
    pub(super) interval: f64,
    pub(super) rates: Vec<f64>,
}

/// Of frames at these moments, so many bytes long each.
pub(super) fn rates(points: &[(f64, u32)]) -> Option<Rates> {
    let times = || points.iter().map(|(at, _)| *at);
    let (begin, end) = (times().reduce(f64::min)?, times().reduce(f64::max)?);
    let interval = ((end - begin) / POINTS).max(SHORTEST);
    let mut bits = vec![0.0; ((end - begin) / interval) as usize + 1];
    for (at, bytes) in points {
        let index = ((at - begin) / interval) as usize;
        if let Some(bits) = bits.get_mut(index) {
            *bits += f64::from(*bytes) * 8.0;
        }
    }
    Some(Rates {
        begin,
        interval,
        rates: bits.iter().map(|bits| bits / interval).collect(),
    })
}
