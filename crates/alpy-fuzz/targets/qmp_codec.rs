// SPDX-License-Identifier: GPL-3.0-or-later
//! Whatever a QMP server says, and whatever it is asked.
#![no_main]

use alpy_fuzz::{Input, edited, value};
use alpy_qmp::fuzzing::{Aside, Exchange, GREETING, command, connection, hostile, lines, message};
use libfuzzer_sys::fuzz_target;

/// A session with one of each kind of message.
const SESSION: &str = concat!(
    "{\"return\": {}, \"id\": 0}\r\n",
    "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\"}\r\n",
    "{\"return\": {\"running\": true}, \"id\": 1}\r\n",
    "{\"timestamp\": {\"seconds\": -1, \"microseconds\": -1}, \"event\": \"JOB\", \"data\": {\"id\": [1]}}\r\n",
    "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 2}\r\n",
    "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}\r\n",
);

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.below(6) {
        0 => {
            let limit = input.number();
            let pieces = input.pieces();
            lines(input.rest(), &pieces, limit);
        }
        1 => message(input.rest()),
        2 => {
            let lines = [GREETING, SESSION].concat();
            let line = lines.lines().nth(input.below(7)).unwrap_or_default();
            message(&edited(line.as_bytes().to_vec(), &mut input));
        }
        3 => {
            let verb = ["execute", "exec-oob"][input.below(2)];
            let (name, id) = (input.text(), input.number() as u32);
            command(verb, &name, &value(&mut input, 5), id);
        }
        4 => {
            let pieces = input.pieces();
            let mut exchanges = Vec::new();
            while !input.is_empty() && exchanges.len() < 40 {
                exchanges.push(exchange(&mut input));
            }
            connection(&exchanges, &pieces);
        }
        _ => {
            let (commands, limit) = (input.below(6), input.number());
            let pieces = input.pieces();
            let session = [GREETING, SESSION].concat().into_bytes();
            let mut said = edited(session, &mut input);
            said.extend(input.rest());
            hostile(&said, &pieces, commands, limit);
        }
    }
});

fn exchange(input: &mut Input<'_>) -> Exchange {
    let how = input.byte();
    let aside = [
        Aside::None,
        Aside::Blank,
        Aside::Stray,
        Aside::Anonymous,
        Aside::Greeting,
    ];
    Exchange {
        out_of_band: how & 1 == 1,
        abandoned: how & 6 == 6,
        choice: usize::from(how >> 3),
        aside: aside[input.below(aside.len())],
        name: input.text(),
        arguments: value(input, 2),
        reply: input.flag().then(|| value(input, 3)),
        events: (0..input.below(4)).map(|_| value(input, 2)).collect(),
    }
}
