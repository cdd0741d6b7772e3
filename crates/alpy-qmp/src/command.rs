// SPDX-License-Identifier: GPL-3.0-or-later
//! What a typed command is, and how a command is written.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, shorten};

/// A command whose arguments and reply have types: its arguments are what it serializes to.
///
/// Those that alpy needs are in [`commands`](crate::commands). Your own takes a few lines:
///
/// ```
/// #[derive(serde::Serialize)]
/// struct Balloon {
///     value: u64,
/// }
///
/// impl alpy_qmp::Command for Balloon {
///     const NAME: &'static str = "balloon";
///     type Reply = alpy_qmp::commands::Empty;
/// }
/// ```
pub trait Command: Serialize {
    /// The name in the protocol.
    const NAME: &'static str;
    /// What the server returns.
    type Reply: DeserializeOwned;
}

/// A command as text, all but its id.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// An object that is not closed yet, so that the id can be appended.
    open: std::sync::Arc<str>,
}

impl Line {
    /// QEMU reads its monitor byte by byte, 2.7 us each: hence no blanks and no empty arguments.
    pub(crate) fn new(verb: &str, name: &str, arguments: &str) -> Result<Self> {
        let mut open = format!(r#"{{"{verb}":{}"#, serde_json::Value::from(name));
        if !matches!(arguments, "null" | "{}") {
            open.push_str(r#","arguments":"#);
            open.push_str(arguments);
        }
        let line = Self { open: open.into() };
        match exceeded_limit(&line.open) {
            Some(limit) => Err(Error::BeyondServerLimit {
                command: line.shown(),
                limit,
            }),
            None => Ok(line),
        }
    }

    /// Appends the whole command to the bytes to send.
    pub(crate) fn write(&self, id: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(self.open.as_bytes());
        out.extend_from_slice(format!(r#","id":{id}}}"#).as_bytes());
    }

    /// The command without its id, shortened.
    pub(crate) fn shown(&self) -> String {
        if self.open.len() > 300 {
            shorten(&self.open)
        } else {
            format!("{}}}", self.open)
        }
    }
}

/// Arguments as text.
pub(crate) fn arguments<T: Serialize + ?Sized>(command: &str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|source| Error::Encode {
        command: command.to_owned(),
        source: source.into(),
    })
}

/// Which limit of QEMU's parser a command exceeds (qobject/json-streamer.c). Its error would come without an id, and the
/// rest of the command would cause more of them, so such a command must not be sent.
fn exceeded_limit(line: &str) -> Option<&'static str> {
    const BYTES: usize = 64 << 20;
    const TOKENS: usize = 2 << 20;
    const NESTING: usize = 1 << 10;
    if line.len() < NESTING {
        return None;
    }
    if line.len() >= BYTES {
        return Some("64 MiB of text");
    }
    let (mut tokens, mut nesting, mut in_string, mut escaped) = (0, 0, false, false);
    for byte in line.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => nesting += 1,
            b'}' | b']' => nesting -= 1,
            _ => {}
        }
        if nesting > NESTING {
            return Some("1024 levels of nesting");
        }
        // A number counts once for each of its bytes, which errs on the safe side.
        tokens += 1;
        if tokens >= TOKENS {
            return Some("2097152 tokens");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &Line) -> String {
        let mut out = Vec::new();
        line.write(7, &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn writes_no_byte_too_many() {
        for none in ["null", "{}"] {
            let line = Line::new("execute", "query-version", none).expect("a fine command");
            assert_eq!(text(&line), r#"{"execute":"query-version","id":7}"#);
        }
        let line = Line::new("exec-oob", "yank", r#"{"instances":[]}"#).expect("a fine command");
        assert_eq!(
            text(&line),
            r#"{"exec-oob":"yank","arguments":{"instances":[]},"id":7}"#
        );
    }

    #[test]
    fn quotes_the_name() {
        let line = Line::new("execute", "a\"b", "null").expect("a fine command");
        assert_eq!(text(&line), r#"{"execute":"a\"b","id":7}"#);
    }

    #[test]
    fn refuses_what_the_server_cannot_parse() {
        let deep = "[".repeat(1024) + &"]".repeat(1024);
        let many = format!("[{}1]", "1,".repeat(1 << 20));
        let long = format!("\"{}\"", "x".repeat(64 << 20));
        for (arguments, expected) in [
            (deep, "1024 levels of nesting"),
            (many, "2097152 tokens"),
            (long, "64 MiB of text"),
        ] {
            match Line::new("execute", "x", &arguments) {
                Err(Error::BeyondServerLimit { limit, .. }) => assert_eq!(limit, expected),
                other => panic!("expected {expected}, got {other:?}"),
            }
        }
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        let arguments = format!(r#"{{"a":"\"{}"}}"#, "[".repeat(5000));
        Line::new("execute", "x", &arguments).expect("nothing nests here");
    }
}
