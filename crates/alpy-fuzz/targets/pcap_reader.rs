// SPDX-License-Identifier: GPL-3.0-or-later
//! Captures of any bytes, and frames of any bytes.
#![no_main]

use alpy_fuzz::{Input, capture, edited};
use alpy_pcap::Frame;
use alpy_pcap::fuzzing::{packet, reader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    if input.flag() {
        let frame = input.rest();
        let timestamp = std::time::Duration::from_millis(86_399_999);
        return packet(Frame::new(timestamp, frame));
    }
    let capture = capture(&mut input);
    let mut capture = edited(capture, &mut input);
    capture.extend(input.rest());
    reader(&capture);
});
