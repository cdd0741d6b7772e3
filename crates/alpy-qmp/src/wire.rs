// SPDX-License-Identifier: GPL-3.0-or-later
//! What comes from the server: lines, and what they mean.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::commands::Version;
use crate::error::{Disconnect, shorten};

/// A server's first words (QEMU, docs/interop/qmp-spec, "Server Greeting").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Greeting {
    /// The version of QEMU.
    pub version: Version,
    /// What the server offers beyond the basics; today that is at most `oob`.
    pub capabilities: Vec<String>,
}

/// One message of the server.
#[derive(Debug)]
pub(crate) enum Message<'a> {
    Greeting(Greeting),
    Event {
        name: String,
        data: Value,
        time: (i64, i64),
    },
    Reply {
        id: Option<&'a RawValue>,
        result: Result<&'a RawValue, (String, String)>,
    },
}

impl<'a> Message<'a> {
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, Disconnect> {
        let malformed = |reason: String| Disconnect::Malformed {
            reason,
            line: shorten(&String::from_utf8_lossy(&line[..line.len().min(1000)])),
        };
        // serde takes the members of a struct without their names too, in an array.
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err(malformed("no JSON object".to_owned()));
        }
        let any: Any<'_> = serde_json::from_slice(line).map_err(|error| malformed(error.to_string()))?;
        match any {
            Any {
                value: Some(value),
                error: None,
                event: None,
                greeting: None,
                id,
                ..
            } => Ok(Self::Reply {
                id,
                result: Ok(value),
            }),
            Any {
                error: Some(error),
                value: None,
                event: None,
                greeting: None,
                id,
                ..
            } => Ok(Self::Reply {
                id,
                result: Err((error.class, error.desc)),
            }),
            Any {
                event: Some(name),
                value: None,
                error: None,
                greeting: None,
                data,
                timestamp,
                ..
            } => {
                let time = timestamp.map_or((-1, -1), |time| (time.seconds, time.microseconds));
                Ok(Self::Event { name, data, time })
            }
            Any {
                greeting: Some(greeting),
                value: None,
                error: None,
                event: None,
                ..
            } => Ok(Self::Greeting(greeting)),
            _ => Err(malformed("neither greeting, reply nor event".to_owned())),
        }
    }
}

#[derive(Deserialize)]
struct Any<'a> {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    #[serde(default, borrow, rename = "return", deserialize_with = "present")]
    value: Option<&'a RawValue>,
    error: Option<ErrorBody>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    timestamp: Option<Timestamp>,
    #[serde(default, borrow)]
    id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ErrorBody {
    class: String,
    desc: String,
    #[serde(rename = "data")]
    _data: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

/// A value that is there even if it is `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Bytes on their way to become lines.
pub(crate) struct LineBuffer {
    /// Zeroed room, so that it can be read into; only `start..end` holds bytes of the server.
    room: Vec<u8>,
    start: usize,
    end: usize,
    /// No line end before this.
    searched: usize,
    limit: usize,
}

impl LineBuffer {
    pub(crate) const CHUNK: usize = 64 << 10;
    pub(crate) const LARGE_CHUNK: usize = 1 << 20;

    pub(crate) fn new(limit: usize) -> Self {
        Self {
            room: Vec::new(),
            start: 0,
            end: 0,
            searched: 0,
            limit,
        }
    }

    /// Where to read the next bytes to; call [`filled`](Self::filled) afterwards, and then take all lines.
    pub(crate) fn spare(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end, self.searched) = (0, 0, 0);
            if self.room.len() > Self::LARGE_CHUNK {
                // A huge line is through; its room is not kept for the rest of the connection's life.
                self.room = Vec::new();
            }
        }
        if self.room.len() - self.end < Self::CHUNK / 2 {
            if self.start > 0 {
                self.room.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.searched -= self.start;
                self.start = 0;
            }
            if self.room.len() - self.end < Self::CHUNK / 2 {
                // Grown by little at a time: room that was never written to costs no memory, and growing a large `Vec`
                // moves pages, not bytes.
                let more = self.end.clamp(Self::CHUNK, Self::LARGE_CHUNK);
                self.room.resize(self.end + more, 0);
            }
        }
        &mut self.room[self.end..]
    }

    pub(crate) fn filled(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// The next whole line without its end, blank ones left out.
    pub(crate) fn next_line(&mut self) -> Result<Option<&[u8]>, Disconnect> {
        loop {
            let fresh = &self.room[self.searched..self.end];
            let found = fresh.iter().position(|&byte| byte == b'\n');
            let length = found.map_or(self.end, |at| self.searched + at) - self.start;
            if length > self.limit {
                return Err(Disconnect::Oversized { limit: self.limit });
            }
            if found.is_none() {
                self.searched = self.end;
                return Ok(None);
            }
            let line = self.start..self.start + length;
            self.start = line.end + 1;
            self.searched = self.start;
            if !self.room[line.clone()].trim_ascii().is_empty() {
                return Ok(Some(self.room[line].trim_ascii_end()));
            }
        }
    }

    /// The bytes that there is room for, used or not.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn room(&self) -> usize {
        self.room.len()
    }

    /// What has no line end yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(limit: usize, chunks: &[&[u8]]) -> Result<Vec<String>, Disconnect> {
        let mut buffer = LineBuffer::new(limit);
        let mut lines = Vec::new();
        for mut chunk in chunks.iter().copied() {
            while !chunk.is_empty() {
                let spare = buffer.spare();
                let count = chunk.len().min(spare.len());
                spare[..count].copy_from_slice(&chunk[..count]);
                buffer.filled(count);
                chunk = &chunk[count..];
                while let Some(line) = buffer.next_line()? {
                    lines.push(String::from_utf8_lossy(line).into_owned());
                }
            }
        }
        Ok(lines)
    }

    #[test]
    fn lines_survive_any_split() {
        let text = b"one\r\n\r\n  \ntwo\nthree\r\nrest";
        for first in 0..text.len() {
            for second in first..text.len() {
                let chunks = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(
                    lines(100, &chunks).expect("short lines"),
                    ["one", "two", "three"],
                    "{first} {second}"
                );
            }
        }
    }

    #[test]
    fn long_lines_pass_up_to_the_limit() {
        let long = "x".repeat(300_000);
        let text = format!("a\n{long}\nb\n");
        assert_eq!(
            lines(300_000, &[text.as_bytes()]).expect("within the limit"),
            ["a", &long, "b"]
        );
        let error = lines(299_999, &[text.as_bytes()]).expect_err("beyond the limit");
        assert!(matches!(error, Disconnect::Oversized { limit: 299_999 }));
        // Without its end, too: else a server that never ends its line fills the memory.
        let error = lines(299_999, &[long.as_bytes()]).expect_err("beyond the limit");
        assert!(matches!(error, Disconnect::Oversized { limit: 299_999 }));
    }

    #[test]
    fn many_lines_do_not_make_the_buffer_grow() {
        let mut buffer = LineBuffer::new(1000);
        for _ in 0..10_000 {
            let spare = buffer.spare();
            spare[..60].fill(b'x');
            spare[60] = b'\n';
            spare[61] = b'y';
            buffer.filled(62);
            while buffer.next_line().expect("short lines").is_some() {}
        }
        assert!(
            buffer.room.len() <= 2 * LineBuffer::CHUNK,
            "{}",
            buffer.room.len()
        );
    }

    #[test]
    fn tells_messages_apart() {
        let Ok(Message::Greeting(greeting)) = Message::parse(
            br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}"#,
        ) else {
            panic!("a greeting of QEMU 7.2")
        };
        assert_eq!(greeting.version.qemu.to_string(), "7.2.22");
        assert_eq!(greeting.capabilities, ["oob"]);

        let Ok(Message::Event { name, data, time }) =
            Message::parse(br#"{"timestamp": {"seconds": 5, "microseconds": 6}, "event": "RESUME"}"#)
        else {
            panic!("an event")
        };
        assert_eq!((name.as_str(), data, time), ("RESUME", Value::Null, (5, 6)));

        let Ok(Message::Reply {
            id: Some(id),
            result: Ok(value),
        }) = Message::parse(br#"{"return": null, "id": 3}"#)
        else {
            panic!("a reply of null is a reply")
        };
        assert_eq!((id.get(), value.get()), ("3", "null"));

        let Ok(Message::Reply {
            id: None,
            result: Err((class, _)),
        }) = Message::parse(br#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#)
        else {
            panic!("an error without id")
        };
        assert_eq!(class, "GenericError");
    }

    #[test]
    fn refuses_what_is_no_message() {
        for line in [
            "",
            "{",
            "[]",
            "[null]",
            r#"[null,{},null,null,null,null,1]"#,
            "7",
            "{}",
            r#"{"id":1}"#,
            r#"{"return":{},"error":{"class":"a","desc":"b"}}"#,
            r#"{"event":"A","return":{}}"#,
            r#"{"return":{},"return":{}}"#,
            r#"{"event":7}"#,
            "{\"event\":\"\u{0}\"}",
            r#"{"return":{}} {"return":{}}"#,
        ] {
            let error = Message::parse(line.as_bytes()).expect_err(line);
            assert!(matches!(error, Disconnect::Malformed { .. }), "{line}: {error}");
        }
        let error = Message::parse(b"{\"return\":\"\xff\"}").expect_err("not UTF-8");
        assert!(matches!(error, Disconnect::Malformed { .. }), "{error}");
    }
}
