// SPDX-License-Identifier: GPL-3.0-or-later
//! A server within the client's own thread, and the wire between the two, so that nothing depends on time.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How often a server looks in vain for another command before it goes on.
const PATIENCE: usize = 40;
/// More in-band commands are never without a reply at once.
const WINDOW: usize = 8;
/// What QEMU 7.2 says first.
pub const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "#,
    r#""capabilities": ["oob"]}}"#,
    "\r\n"
);

/// What a server does about one command.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// What the command is called.
    pub name: String,
    /// What else the command's arguments hold.
    pub arguments: Value,
    /// The command goes past the others.
    pub out_of_band: bool,
    /// The caller loses interest at once.
    pub abandoned: bool,
    /// The value, or the class and the description of an error.
    pub reply: Option<Value>,
    /// The data of the events that come before the reply.
    pub events: Vec<Value>,
    /// What else comes before it.
    pub aside: Aside,
    /// Which of the commands that wait for a reply gets the next one.
    pub choice: usize,
}

/// What a server may say and no client should mind.
#[derive(Clone, Copy, Debug, Default)]
pub enum Aside {
    /// Nothing.
    #[default]
    None,
    /// A line without anything in it.
    Blank,
    /// A reply to nobody.
    Stray,
    /// An answer without an id that is no error.
    Anonymous,
    /// Another greeting.
    Greeting,
}

/// The server's side of a connection, and the wire to it, all within this thread.
#[derive(Clone)]
pub(super) struct Stage(Arc<Mutex<Server>>);

pub(super) struct Server {
    play: Play,
    pieces: VecDeque<usize>,
    /// What the client wrote and is no whole command yet.
    heard: Vec<u8>,
    /// Commands without a reply.
    waiting: Vec<Value>,
    replies: usize,
    /// What is said and the client has not read.
    out: VecDeque<u8>,
    /// The events said.
    pub(super) events: Vec<(String, Value)>,
    hung_up: bool,
    looks_in_vain: usize,
    reader: Option<Waker>,
}

pub(super) enum Play {
    Behaved(Vec<Exchange>),
    /// What is still to be said.
    Hostile(Vec<u8>),
}

impl Stage {
    pub(super) fn new(play: Play, pieces: &[usize]) -> Self {
        let mut server = Server {
            play,
            pieces: pieces.iter().copied().collect(),
            heard: Vec::new(),
            waiting: Vec::new(),
            replies: 0,
            out: VecDeque::new(),
            events: Vec::new(),
            hung_up: false,
            looks_in_vain: 0,
            reader: None,
        };
        if let Play::Behaved(_) = server.play {
            server.say(GREETING);
        }
        Self(Arc::new(Mutex::new(server)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Server> {
        self.0.lock().expect("no panic")
    }

    pub(super) fn hang_up(&self) {
        let mut server = self.lock();
        server.hung_up = true;
        server.wake();
    }
}

impl Server {
    fn say(&mut self, text: &str) {
        self.out.extend(text.as_bytes());
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Takes what the client wrote.
    fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend(bytes);
        let mut values = serde_json::Deserializer::from_slice(&self.heard).into_iter::<Value>();
        let mut end = 0;
        let mut new = Vec::new();
        loop {
            match values.next() {
                Some(Ok(command)) => new.push(command),
                Some(Err(error)) if !error.is_eof() => panic!("the client wrote nonsense: {error}"),
                _ => break,
            }
            end = values.byte_offset();
        }
        self.heard.drain(..end);
        for command in new {
            assert!(
                self.waiting.iter().all(|other| other["id"] != command["id"]),
                "an id that is taken: {command}"
            );
            self.waiting.push(command);
        }
        if let Play::Behaved(_) = self.play {
            let in_band = self
                .waiting
                .iter()
                .filter(|command| command["exec-oob"].is_null());
            assert!(in_band.count() <= WINDOW);
        }
        self.wake();
    }

    /// Says what comes next; false if that depends on the client.
    fn go_on(&mut self) -> bool {
        match &mut self.play {
            Play::Behaved(_) => self.reply(),
            Play::Hostile(rest) => {
                let end = rest
                    .iter()
                    .position(|&byte| byte == b'\n')
                    .map_or(rest.len(), |end| end + 1);
                let has_id = rest[..end].windows(4).any(|part| part == b"\"id\"");
                if has_id && self.waiting.is_empty() && self.looks_in_vain < PATIENCE {
                    self.looks_in_vain += 1;
                    return false;
                }
                if has_id && !self.waiting.is_empty() {
                    self.waiting.remove(0);
                    self.looks_in_vain = 0;
                }
                self.out.extend(rest.drain(..end));
                self.hung_up = rest.is_empty();
                true
            }
        }
    }

    /// Answers one of the commands that wait.
    fn reply(&mut self) -> bool {
        let Play::Behaved(exchanges) = &self.play else {
            return false;
        };
        let choice = exchanges.get(self.replies).map_or(0, |exchange| exchange.choice);
        if self.waiting.is_empty() {
            return false;
        }
        let command = self.waiting.remove(choice % self.waiting.len());
        self.replies += 1;
        let id = &command["id"];
        if command["execute"] == "qmp_capabilities" {
            assert_eq!(command["arguments"], json!({"enable": ["oob"]}));
            self.say(&format!("{{\"return\": {{}}, \"id\": {id}}}\r\n"));
            return true;
        }
        let number = command["arguments"]["number"].as_u64().expect("a number") as usize;
        let Play::Behaved(exchanges) = &self.play else {
            return false;
        };
        let exchange = exchanges[number].clone();
        let verb = if exchange.out_of_band {
            "exec-oob"
        } else {
            "execute"
        };
        assert_eq!(command[verb], json!(exchange.name));
        assert_eq!(command["arguments"]["more"], exchange.arguments);
        for data in exchange.events {
            let name = format!("EVENT_{number}");
            let timestamp = json!({"seconds": number, "microseconds": 0});
            let event = json!({"event": name, "data": data, "timestamp": timestamp});
            self.say(&format!("{event}\r\n"));
            self.events.push((name, data));
        }
        match exchange.aside {
            Aside::None => {}
            Aside::Blank => self.say(" \r\n\n"),
            Aside::Stray => self.say("{\"return\": 1, \"id\": 4000000000}\n{\"return\": 2, \"id\": \"0\"}\n"),
            Aside::Anonymous => self.say("{\"return\": {}}\r\n"),
            Aside::Greeting => self.say(GREETING),
        }
        let reply = match exchange.reply {
            Some(value) => json!({"return": value, "id": id}),
            None => json!({"error": {"class": "GenericError", "desc": error_of(&exchange.name)}, "id": id}),
        };
        self.say(&format!("{reply}\r\n"));
        true
    }

    /// The length of the next piece.
    fn piece(&mut self) -> usize {
        self.pieces.pop_front().unwrap_or(usize::MAX)
    }
}

impl AsyncRead for Stage {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut server = self.lock();
        if server.out.is_empty() && !server.hung_up && !server.go_on() {
            if let Play::Hostile(_) = server.play {
                // Whether another command comes is only known when everyone else had a turn.
                cx.waker().wake_by_ref();
            }
            server.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let piece = server.piece();
        if piece == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let length = piece.min(server.out.len()).min(room.remaining());
        let bytes: Vec<u8> = server.out.drain(..length).collect();
        room.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stage {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut server = self.lock();
        let length = server.piece().min(bytes.len());
        if length == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        server.hear(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The description of the error that a command gets.
pub(super) fn error_of(name: &str) -> String {
    format!("cannot {name}")
}
