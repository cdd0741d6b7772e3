// SPDX-License-Identifier: GPL-3.0-or-later
//! Captures of any bytes that are read while they are written.
#![no_main]

use alpy_fuzz::{Input, capture, edited};
use alpy_pcap::fuzzing::{Delivery, follower};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let deliveries: Vec<_> = input.part().iter().map(|&byte| delivery(byte)).collect();
    let capture = capture(&mut input);
    let mut capture = edited(capture, &mut input);
    capture.extend(input.rest());
    follower(&capture, &deliveries);
});

fn delivery(byte: u8) -> Delivery {
    match byte {
        0xff => Delivery::Failure,
        0xfe => Delivery::Interruption,
        0xf0.. => Delivery::Bytes((usize::from(byte) - 0xef) << 14),
        _ => Delivery::Bytes(usize::from(byte)),
    }
}
