// SPDX-License-Identifier: GPL-3.0-or-later
use serde_json::Value;

use crate::Input;

/// What may well matter where it stands.
const TOKENS: [&str; 20] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "\n",
    "\\",
    "null",
    "{}",
    "\"id\":",
    "\"return\":",
    "\"error\":",
    "\"event\":",
    "0",
    "-1",
    "\u{0}",
    " ",
    "\r\n",
];

/// Something valid with changes, each of a few bytes of input: none of them, and it is as it was.
pub fn edited(mut bytes: Vec<u8>, input: &mut Input<'_>) -> Vec<u8> {
    for _ in 0..input.below(8) {
        let (at, kind, value) = (input.number(), input.below(6), input.byte());
        let at = at % (bytes.len() + 1);
        let end = (at + usize::from(value)).min(bytes.len());
        match kind {
            0 if at < bytes.len() => bytes[at] = value,
            1 if at < bytes.len() => bytes[at] ^= 1 << (value % 8),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.extend_from_within(at..end),
            4 => bytes.insert(at, value),
            _ => {
                let token = TOKENS[usize::from(value) % TOKENS.len()];
                drop(bytes.splice(at..at, token.bytes()));
            }
        }
    }
    bytes
}

/// A value, at most so deep.
pub fn value(input: &mut Input<'_>, depth: usize) -> Value {
    match input.below(if depth == 0 { 4 } else { 6 }) {
        0 => Value::Null,
        1 => input.flag().into(),
        2 => (input.number() as i64 - 0x8000)
            .wrapping_mul(0x7fff_ffff_ffff)
            .into(),
        3 => input.text().into(),
        4 => (0..input.below(4)).map(|_| value(input, depth - 1)).collect(),
        _ => (0..input.below(4))
            .map(|_| (input.text(), value(input, depth - 1)))
            .collect(),
    }
}
