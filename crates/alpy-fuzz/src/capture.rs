// SPDX-License-Identifier: GPL-3.0-or-later
use crate::Input;

#[path = "../../alpy-pcap/tests/captures/build.rs"]
#[allow(dead_code, reason = "it has more for the tests that look into frames")]
mod build;

use build::{File, Layout, file_of, zoo};

/// A capture: of one frame of each kind, of long frames, of some frames in any layout, or of nothing.
pub fn capture(input: &mut Input<'_>) -> Vec<u8> {
    let frames = zoo();
    match input.below(6) {
        0 => Vec::new(),
        1 => file_of(&frames),
        2 => {
            let lengths = (0..=input.below(4)).map(|_| input.number() * 4);
            let frames = lengths.map(|length| vec![length as u8; length]);
            file_of(&frames.collect::<Vec<_>>())
        }
        _ => {
            let layout = Layout {
                big_endian: input.flag(),
                nanoseconds: input.flag(),
            };
            let file = File::with_layout(layout);
            let seconds = 0..=input.below(4) as u32;
            let add = |file: File, seconds| file.frame(seconds, 999_999, &frames[input.below(frames.len())]);
            seconds.fold(file, add).bytes
        }
    }
}
