// SPDX-License-Identifier: GPL-3.0-or-later
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What becomes of the frames that leave through a link, by the kernel's traffic control, tc(8).
///
/// ```
/// use std::time::Duration;
///
/// use alpy_netns::Impairment;
///
/// let satellite = Impairment::new().delay(Duration::from_millis(300)).jitter(Duration::from_millis(20)).loss(0.01);
/// let modem = Impairment::new().rate_bits(56_000);
/// ```
///
/// A rate alone is kept by a token bucket, tc-tbf(8), which nearly every kernel has (`sch_tbf`); everything else, with a rate or
/// without, needs tc-netem(8) (`sch_netem`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impairment {
    #[serde(default)]
    pub(crate) rate_bits: Option<u64>,
    #[serde(default)]
    pub(crate) delay: Duration,
    #[serde(default)]
    pub(crate) jitter: Duration,
    #[serde(default)]
    pub(crate) loss: Share,
    #[serde(default)]
    pub(crate) duplication: Share,
    #[serde(default)]
    pub(crate) reordering: Share,
    #[serde(default)]
    pub(crate) corruption: Share,
}

/// How much of all frames: as the kernel counts it, `u32::MAX` are all. None is a number that is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Share(pub(crate) Option<u32>);

impl Default for Share {
    fn default() -> Self {
        Self(Some(0))
    }
}

impl Share {
    const NONE: Self = Self(Some(0));

    fn of(share: f64) -> Self {
        let part = |share: f64| (share * f64::from(u32::MAX)).round() as u32;
        Self((0.0..=1.0).contains(&share).then(|| part(share)))
    }
}

impl Impairment {
    /// The longest delay.
    pub const LONGEST_DELAY: Duration = Duration::from_secs(60);

    /// The greatest jitter: more than that, the kernel would cut.
    pub const GREATEST_JITTER: Duration = Duration::from_secs(2);

    /// The lowest and the highest rate, in bits per second.
    pub const RATES: std::ops::RangeInclusive<u64> = 8_000..=400_000_000_000;

    /// None: frames leave as they come.
    pub fn new() -> Self {
        Self::default()
    }

    /// So many bits per second, Ethernet headers included, and no more; what comes faster waits, and is dropped when the queue is full.
    #[must_use]
    pub fn rate_bits(mut self, rate: u64) -> Self {
        self.rate_bits = Some(rate);
        self
    }

    /// Each frame leaves that much later.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The delay varies by up to that much, either way.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// That share of all frames, from 0.0 to 1.0, is lost; which ones is random.
    #[must_use]
    pub fn loss(mut self, share: f64) -> Self {
        self.loss = Share::of(share);
        self
    }

    /// That share of all frames, from 0.0 to 1.0, leaves twice.
    #[must_use]
    pub fn duplication(mut self, share: f64) -> Self {
        self.duplication = Share::of(share);
        self
    }

    /// That share of all frames, from 0.0 to 1.0, leaves without the delay, and so before others. It needs a delay.
    #[must_use]
    pub fn reordering(mut self, share: f64) -> Self {
        self.reordering = Share::of(share);
        self
    }

    /// One bit is wrong in that share of all frames, from 0.0 to 1.0.
    #[must_use]
    pub fn corruption(mut self, share: f64) -> Self {
        self.corruption = Share::of(share);
        self
    }

    /// What can never be right about it.
    pub(crate) fn fault(&self) -> Option<String> {
        let shares = [
            ("loss", self.loss),
            ("duplication", self.duplication),
            ("reordering", self.reordering),
            ("corruption", self.corruption),
        ];
        if let Some((name, _)) = shares.iter().find(|(_, share)| share.0.is_none()) {
            return Some(format!("the {name} is no share of all frames, from 0.0 to 1.0"));
        }
        if let Some(rate) = self.rate_bits.filter(|rate| !Self::RATES.contains(rate)) {
            let (least, most) = Self::RATES.into_inner();
            return Some(format!(
                "a rate of {rate} bits per second is not within {least} to {most}"
            ));
        }
        if self.delay > Self::LONGEST_DELAY {
            return Some(format!(
                "a delay of {:?} is longer than {:?}",
                self.delay,
                Self::LONGEST_DELAY
            ));
        }
        if self.jitter > Self::GREATEST_JITTER {
            return Some(format!(
                "a jitter of {:?} is more than {:?}",
                self.jitter,
                Self::GREATEST_JITTER
            ));
        }
        if self.jitter > self.delay {
            return Some(format!(
                "a jitter of {:?} is more than the delay, {:?}",
                self.jitter, self.delay
            ));
        }
        (self.reordering != Share::NONE && self.delay.is_zero())
            .then(|| "reordering needs a delay, which some frames overtake".to_owned())
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.rate_bits.map(|rate| format!("rate {rate} bit/s")));
        for (name, time) in [("delay", self.delay), ("jitter", self.jitter)] {
            words.extend((!time.is_zero()).then(|| format!("{name} {time:?}")));
        }
        for (name, share) in [
            ("loss", self.loss),
            ("duplication", self.duplication),
            ("reordering", self.reordering),
            ("corruption", self.corruption),
        ] {
            let percent = share
                .0
                .map_or(f64::NAN, |part| f64::from(part) * 100.0 / f64::from(u32::MAX));
            words.extend((share != Share::NONE).then(|| format!("{name} {percent:.3}%")));
        }
        match words.as_slice() {
            [] => f.write_str("no impairment"),
            words => f.write_str(&words.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_right_is_refused_by_name() {
        let ms = Duration::from_millis;
        for (impairment, expected) in [
            (Impairment::new().loss(1.5), "the loss is no share"),
            (
                Impairment::new().corruption(f64::NAN),
                "the corruption is no share",
            ),
            (Impairment::new().duplication(-0.1), "the duplication is no share"),
            (Impairment::new().rate_bits(7), "7 bits per second"),
            (Impairment::new().delay(ms(60_001)), "60.001s"),
            (
                Impairment::new().delay(ms(1)).jitter(ms(2)),
                "2ms is more than the delay, 1ms",
            ),
            (
                Impairment::new().delay(ms(9000)).jitter(ms(2001)),
                "2.001s is more than 2s",
            ),
            (Impairment::new().reordering(0.1), "needs a delay"),
        ] {
            let fault = impairment.fault().expect(expected);
            assert!(fault.contains(expected), "{fault}");
        }
        let all = Impairment::new()
            .rate_bits(8000)
            .delay(ms(2))
            .jitter(ms(1))
            .loss(1.0);
        let all = all.duplication(0.5).reordering(0.25).corruption(0.0);
        assert_eq!(all.fault(), None);
        let words =
            "rate 8000 bit/s, delay 2ms, jitter 1ms, loss 100.000%, duplication 50.000%, reordering 25.000%";
        assert_eq!(all.to_string(), words);
    }
}
