// SPDX-License-Identifier: GPL-3.0-or-later
//! An impairment as a queueing discipline, in the bytes of linux/pkt_sched.h.

use std::time::Duration;

use crate::Impairment;

/// A queueing discipline: its kind, and its `TCA_OPTIONS`.
pub(super) struct Qdisc {
    pub(super) kind: &'static str,
    pub(super) options: Vec<u8>,
}

/// How long what waits for a token may wait.
const LATENCY: Duration = Duration::from_millis(50);

/// An Ethernet header with a VLAN tag, in bytes.
const HEADER: u64 = 18;

/// The queue of netem in frames: enough for a second of full frames at 1 Gbit/s.
const NETEM_LIMIT: u32 = 100_000;

impl Qdisc {
    /// For a link of this MTU; none where there is nothing to impair.
    pub(super) fn of(impairment: &Impairment, mtu_bytes: u32) -> Option<Self> {
        let rate_alone = Impairment {
            rate_bits: impairment.rate_bits,
            ..Impairment::new()
        };
        match impairment.rate_bits {
            None if *impairment == rate_alone => None,
            Some(rate) if *impairment == rate_alone => Some(tbf(rate / 8, mtu_bytes.into())),
            _ => Some(netem(impairment)),
        }
    }
}

/// A token bucket of so many bytes per second.
fn tbf(rate: u64, mtu_bytes: u64) -> Qdisc {
    // What comes in a hundredth of a second, so that a kernel that looks 100 times a second keeps the rate; and room for full frames,
    // for one that does not fit the bucket is dropped.
    let burst = (rate / 100).max(2 * (mtu_bytes + HEADER));
    let waiting = u128::from(rate) * LATENCY.as_millis() / 1000;
    let limit = clamp(waiting + u128::from(burst));
    // struct tc_tbf_qopt: two tc_ratespec, of which the second stays empty, then limit, buffer, mtu. Linklayer 1 is Ethernet: without
    // it, the kernel would want a table of transmission times.
    let mut parameters = vec![0, 1, 0, 0, 0, 0, 0, 0];
    parameters.extend(clamp(rate.into()).to_ne_bytes());
    parameters.extend([0; 12]);
    parameters.extend(limit.to_ne_bytes());
    parameters.extend([0; 8]);
    let mut options = Vec::new();
    attribute(&mut options, 1, &parameters);
    if u32::try_from(rate).is_err() {
        attribute(&mut options, 4, &rate.to_ne_bytes());
    }
    attribute(&mut options, 6, &clamp(burst.into()).to_ne_bytes());
    Qdisc { kind: "tbf", options }
}

fn netem(impairment: &Impairment) -> Qdisc {
    let share = |share: crate::impairment::Share| share.0.unwrap_or(0);
    let reordering = share(impairment.reordering);
    // struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter. Both times come in nanoseconds below.
    let fixed = [
        0,
        NETEM_LIMIT,
        share(impairment.loss),
        // A gap of one frame: each of them may leave at once.
        u32::from(reordering > 0),
        share(impairment.duplication),
        0,
    ];
    let mut options = fixed.map(u32::to_ne_bytes).concat();
    let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX).to_ne_bytes();
    attribute(&mut options, 10, &nanoseconds(impairment.delay));
    attribute(&mut options, 11, &nanoseconds(impairment.jitter));
    // Each a probability, and its correlation, which is none.
    let probability = |share: u32| [share, 0].map(u32::to_ne_bytes).concat();
    if reordering > 0 {
        attribute(&mut options, 3, &probability(reordering));
    }
    // These two are sent even where there is none: what is not sent stays as it was when a netem takes the place of another one.
    attribute(&mut options, 4, &probability(share(impairment.corruption)));
    // struct tc_netem_rate: rate, packet overhead, cell size, cell overhead; and the rate once more where it is too large.
    let rate = impairment.rate_bits.unwrap_or(0) / 8;
    let fields = [clamp(rate.into()), 0, 0, 0];
    attribute(&mut options, 6, &fields.map(u32::to_ne_bytes).concat());
    if u32::try_from(rate).is_err() {
        attribute(&mut options, 8, &rate.to_ne_bytes());
    }
    Qdisc {
        kind: "netem",
        options,
    }
}

fn clamp(number: u128) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn attribute(options: &mut Vec<u8>, kind: u16, value: &[u8]) {
    options.extend((4 + value.len() as u16).to_ne_bytes());
    options.extend(kind.to_ne_bytes());
    options.extend(value);
    options.resize(options.len().next_multiple_of(4), 0);
}
