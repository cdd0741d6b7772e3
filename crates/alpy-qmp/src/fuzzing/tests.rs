// SPDX-License-Identifier: GPL-3.0-or-later
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

use super::*;

/// The same cases in each run; the fuzzer is there to find others.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x5eed),
        ..ProptestConfig::default()
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z-]{0,12}", any::<String>()]
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |value| {
        prop_oneof![
            vec(value.clone(), 0..4).prop_map(Value::from),
            btree_map(text(), value, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let aside = [
        Aside::None,
        Aside::None,
        Aside::Blank,
        Aside::Stray,
        Aside::Anonymous,
        Aside::Greeting,
    ];
    let how = (prop::bool::weighted(0.2), prop::bool::weighted(0.1), 0..8_usize);
    let said = (
        prop::option::weighted(0.8, json_value()),
        vec(json_value(), 0..3),
        select(aside.to_vec()),
    );
    (text(), json_value(), how, said).prop_map(
        |(name, arguments, (out_of_band, abandoned, choice), (reply, events, aside))| Exchange {
            name,
            arguments,
            out_of_band,
            abandoned,
            reply,
            events,
            aside,
            choice,
        },
    )
}

/// What a server says to a handshake and to some commands.
fn session() -> impl Strategy<Value = String> {
    let line = |id: usize| {
        prop_oneof![
            4 => json_value().prop_map(move |value| json!({"return": value, "id": id})),
            1 => Just(json!({"error": {"class": "GenericError", "desc": "no"}, "id": id})),
            1 => Just(json!({"error": {"class": "GenericError", "desc": "JSON parse error"}})),
            2 => (text(), json_value()).prop_map(|(event, data)| {
                json!({"event": event, "data": data, "timestamp": {"seconds": 1, "microseconds": 2}})
            }),
        ]
    };
    let lines = (1..5_usize).prop_map(move |most| (0..most).map(line).collect::<Vec<_>>());
    lines.prop_flat_map(|lines| lines).prop_map(|lines| {
        let lines = lines.into_iter().map(|line| format!("{line}\r\n"));
        [GREETING, "{\"return\": {}, \"id\": 0}\n"]
            .into_iter()
            .map(str::to_owned)
            .chain(lines)
            .collect()
    })
}

/// The members of all kinds of messages in one: none of them, unless by chance.
fn mixture() -> impl Strategy<Value = Value> {
    let greeting = GREETING.trim_end().strip_prefix("{\"QMP\": ").unwrap();
    let greeting: Value = serde_json::from_str(greeting.strip_suffix('}').unwrap()).unwrap();
    let error = json!({"class": "GenericError", "desc": "no"});
    let known = [("QMP", greeting), ("error", error), ("event", json!("STOP"))];
    let known = vec(select(known.to_vec()), 0..3);
    let any = vec(
        (select(&["return", "data", "id", "error", "x"][..]), json_value()),
        0..3,
    );
    (known, any).prop_map(|(known, any)| {
        let members = known.into_iter().chain(any);
        Value::Object(members.map(|(key, value)| (key.to_owned(), value)).collect())
    })
}

/// The members of a message without their names, as serde takes them for a struct too.
fn members() -> impl Strategy<Value = Value> {
    let present = || prop_oneof![Just(Value::Null), json_value()];
    (present(), present()).prop_map(|(value, id)| json!([null, value, null, null, null, null, id]))
}

#[derive(Clone, Debug)]
enum Edit {
    Set(Index, u8),
    Remove(Index),
    Insert(Index, u8),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        any::<Index>().prop_map(Edit::Remove),
        (any::<Index>(), select(&b"{}[]\",:\n\\\0"[..])).prop_map(|(at, byte)| Edit::Insert(at, byte)),
    ];
    vec(edit, 0..5)
}

fn edited(text: &str, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for edit in edits {
        match edit {
            Edit::Set(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Edit::Remove(at) => drop(bytes.remove(at.index(bytes.len()))),
            Edit::Insert(at, byte) => bytes.insert(at.index(bytes.len()), *byte),
        }
    }
    bytes
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![0..6_usize, 0..200_usize], 0..40)
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn splits_lines_as_a_plain_splitting_does(
        bytes in vec(select(&b"ab \t\r\n\n"[..]), 0..200),
        pieces in pieces(),
        limit in 0..60_usize,
    ) {
        lines(&bytes, &pieces, limit);
    }

    #[test]
    fn understands_what_a_line_says(
        session in session(),
        edits in edits(),
        others in vec(prop_oneof![mixture(), members()], 0..4),
    ) {
        for other in others {
            message(other.to_string().as_bytes());
        }
        for line in session.lines() {
            message(line.as_bytes());
            message(&edited(line, &edits));
        }
    }

    #[test]
    fn writes_one_line_of_json(
        verb in select(&["execute", "exec-oob"][..]),
        name in text(),
        arguments in json_value(),
        id in any::<u32>(),
    ) {
        command(verb, &name, &arguments, id);
    }
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn gives_each_command_its_reply_and_every_event_in_order(
        exchanges in vec(exchange(), 0..20),
        pieces in pieces(),
    ) {
        connection(&exchanges, &pieces);
    }

    #[test]
    fn a_mutilated_session_ends_and_keeps_what_was_understood(
        session in session(),
        edits in edits(),
        pieces in pieces(),
        commands in 0..4_usize,
        limit in prop_oneof![Just(1000_usize), 20..200_usize],
    ) {
        hostile(&edited(&session, &edits), &pieces, commands, limit);
    }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn takes_little_more_memory_than_the_longest_line(
        lengths in vec(prop_oneof![0..200_usize, 0..3_000_000_usize], 1..10),
        pieces in vec(0..400_000_usize, 0..20),
        limit in 1_000_000..3_000_000_usize,
    ) {
        let bytes = lengths.iter().map(|length| [vec![b'x'; *length], vec![b'\n']].concat());
        lines(&bytes.collect::<Vec<_>>().concat(), &pieces, limit);
    }

    #[test]
    fn writes_nothing_that_the_server_cannot_parse(depth in 1018..1030_usize) {
        let arguments = (0..depth).fold(json!(1), |value, _| Value::Array(vec![value]));
        command("execute", "x", &arguments, 0);
    }
}
