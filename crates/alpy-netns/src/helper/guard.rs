// SPDX-License-Identifier: GPL-3.0-or-later
use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use serde::Deserialize;

use super::tap::Tap;
use crate::InterfaceName;
use crate::ward::{Ward, Word};

/// For everything. An engine that does not answer for so long will not.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const TICK: Duration = Duration::from_millis(200);
/// How long there must be no container: what the dead process had asked the engine for may be coming yet.
const QUIET: Duration = Duration::from_secs(2);
/// How long a container has to end by itself, as most do when the process that held their input is gone.
const PATIENCE: Duration = Duration::from_millis(700);
/// How long one that was created has: Docker 20.10 keeps a shim for a minute when a container is removed while it starts.
const START: Duration = Duration::from_millis(1500);
/// For one answer of the engine.
const ANSWER: Duration = Duration::from_secs(10);

/// Reads from standard input what to remove; at the end of it removes all of it, unless the last word was that all is in order.
///
/// # Errors
/// Standard input cannot be read.
pub fn guard() -> io::Result<()> {
    let mut wards = Vec::new();
    for line in io::stdin().lock().lines() {
        match serde_json::from_str(&line?) {
            Ok(Word::Ward(ward)) => wards.push(ward),
            Ok(Word::Done) => return Ok(()),
            Err(error) => eprintln!("not understood: {error}"),
        }
    }
    remove_all(&wards);
    Ok(())
}

fn remove_all(wards: &[Ward]) {
    let began = Instant::now();
    let mut sweeps: Vec<Sweep> = wards.iter().filter_map(Sweep::of).collect();
    loop {
        // All of them each time, for what is in the way now may be gone later.
        let left = wards.iter().filter(|ward| !remove(ward)).count();
        sweeps.retain_mut(|sweep| !sweep.look());
        if (left == 0 && sweeps.is_empty()) || began.elapsed() > LIMIT {
            return;
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "what it waits for tells nobody")]
fn pause() {
    thread::sleep(TICK);
}

/// Removes a folder or a tap; false if it is still there.
fn remove(ward: &Ward) -> bool {
    match ward {
        Ward::Folder(path) => match fs::remove_dir_all(path) {
            Err(error) => error.kind() == ErrorKind::NotFound,
            Ok(()) => true,
        },
        Ward::Tap(name) => remove_tap(name).is_ok(),
        Ward::Containers { .. } => true,
    }
}

/// Its owner may open a tap, and what is open and not persistent ends.
fn remove_tap(name: &InterfaceName) -> io::Result<()> {
    if if_nametoindex(name.as_str()) == Err(Errno::ENODEV) {
        return Ok(());
    }
    Tap::open(name)?.set_persistent(false)
}

/// The containers with a label, looked at again and again.
struct Sweep<'a> {
    socket: &'a Path,
    label: &'a str,
    /// When each was first seen.
    seen: HashMap<String, Instant>,
    quiet_since: Instant,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
    state: String,
}

impl<'a> Sweep<'a> {
    fn of(ward: &'a Ward) -> Option<Self> {
        let Ward::Containers { socket, label } = ward else {
            return None;
        };
        Some(Self {
            socket,
            label,
            seen: HashMap::new(),
            quiet_since: Instant::now(),
        })
    }

    /// Whether there is nothing left to look for.
    fn look(&mut self) -> bool {
        let containers = match self.list() {
            Ok(containers) => containers,
            // No engine, no containers.
            Err(error) => return error.kind() == ErrorKind::NotFound,
        };
        if !containers.is_empty() {
            self.quiet_since = Instant::now();
        }
        for container in containers {
            let patience = if container.state == "created" {
                START
            } else {
                PATIENCE
            };
            let seen = self.seen.entry(container.id.clone()).or_insert_with(Instant::now);
            if seen.elapsed() >= patience {
                // One that cannot be removed now is seen again.
                let _ = ask(
                    self.socket,
                    "DELETE",
                    &format!("/containers/{}?force=1&v=1", container.id),
                );
            }
        }
        self.quiet_since.elapsed() >= QUIET
    }

    fn list(&self) -> io::Result<Vec<Container>> {
        let filters = serde_json::json!({"label": [self.label]}).to_string();
        let path = format!("/containers/json?all=1&filters={}", percent_encoded(&filters));
        Ok(serde_json::from_str(&ask(self.socket, "GET", &path)?)?)
    }
}

/// One request to the engine, see the Docker Engine API; its answer's body. In HTTP 1.0, where a body ends with the connection.
fn ask(socket: &Path, method: &str, path: &str) -> io::Result<String> {
    let mut engine = UnixStream::connect(socket)?;
    engine.set_read_timeout(Some(ANSWER))?;
    engine.set_write_timeout(Some(ANSWER))?;
    write!(engine, "{method} {path} HTTP/1.0\r\nHost: engine\r\n\r\n")?;
    let mut answer = String::new();
    engine.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    body.ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

/// As a part of a URL's query.
fn percent_encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_becomes_a_part_of_a_query() {
        assert_eq!(percent_encoded(r#"{"a=é":1}"#), "%7B%22a%3D%C3%A9%22%3A1%7D");
    }
}
