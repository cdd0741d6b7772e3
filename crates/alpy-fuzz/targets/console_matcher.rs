// SPDX-License-Identifier: GPL-3.0-or-later
//! Any stream, any needle, any window.
#![no_main]

use alpy_console::ReadUntil;
use alpy_console::fuzzing::{Step, matcher, matcher_is_indifferent_to_cuts, pattern, window};
use alpy_fuzz::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.below(4) {
        0 => {
            let limit = input.number() % 2000;
            let mut steps = Vec::new();
            while !input.is_empty() {
                let length = input.number() % 4096;
                steps.push(if input.flag() {
                    Step::Come(length)
                } else {
                    Step::Read(length)
                });
            }
            window(limit, &steps);
        }
        1 => {
            let until = needle(&mut input, true, 2);
            let pieces = input.pieces();
            matcher_is_indifferent_to_cuts(&until, &stream(input.rest()), &pieces);
        }
        _ => {
            let until = needle(&mut input, false, 2);
            let limit = match input.below(3) {
                0 => input.below(64),
                1 => input.number(),
                _ => usize::MAX,
            };
            let pieces = input.pieces();
            matcher(&until, &stream(input.rest()), &pieces, limit);
        }
    }
});

fn needle(input: &mut Input<'_>, definite: bool, depth: usize) -> ReadUntil {
    match input.below(if depth == 0 { 6 } else { 8 }) {
        0 | 1 => String::from_utf8_lossy(&stream(input.part())).into_owned().into(),
        2 | 3 => {
            let choices = input.part();
            let pattern = pattern(&choices[..choices.len().min(8)], definite);
            ReadUntil::regex(&pattern).expect("a pattern")
        }
        4 => ReadUntil::NBytes(input.below(100)),
        5 => ReadUntil::EOF,
        _ => ReadUntil::Any(
            (0..input.below(5))
                .map(|_| needle(input, definite, depth - 1))
                .collect(),
        ),
    }
}

/// Few different bytes, so that something is found, and long runs, so that it takes more than one look. No longer than twice the
/// reach of a look, because the plain search begins anew with each.
fn stream(bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for &byte in bytes {
        let length = match byte >> 3 {
            31 => 1500,
            30 => 100,
            longer @ 26.. => usize::from(longer) - 24,
            _ => 1,
        };
        stream.extend([b"ab\n\xc3\xa9\r x"[usize::from(byte % 8)]].repeat(length));
        if stream.len() > 8192 {
            break;
        }
    }
    stream
}
