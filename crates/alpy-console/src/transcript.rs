// SPDX-License-Identifier: GPL-3.0-or-later
//! Every byte of a console, in and out, as it comes: to files, to tracing, and the newest to memory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tracing::level_filters::LevelFilter;

use crate::Error;
use crate::echo::{Echo, Shown};
use crate::escape::{Escaper, escaped, last_lines, shortened};
use crate::shell::typing;

/// How much is kept in memory for error messages.
const RECENT: usize = 16 * 1024;
/// A line that is longer goes to tracing in pieces.
const TRACED_LINE: usize = 4096;
/// What stands for a line that nobody is to read.
const SECRET: &[u8] = b"<password>";
/// How exactly it is known when something was said. A flood costs no more than a file of this many entries a second.
const BETWEEN_TIMES: Duration = Duration::from_millis(10);

/// Where a console's bytes are recorded.
#[derive(Default)]
pub(crate) struct Transcript {
    log: Option<Sink>,
    raw: Option<Sink>,
    /// When what is behind a place in the log was said.
    times: Option<Sink>,
    /// How long the log is, in bytes.
    logged: u64,
    timed: Option<Instant>,
    failure: Option<Error>,
    recent: Vec<u8>,
    echo: Echo,
    escaper: Escaper,
    direction: Direction,
    /// The last line of the log has no end yet.
    open: bool,
    traced: Vec<u8>,
    /// What the last bytes are as text, and laid out for the log; kept for their memory.
    text: Vec<u8>,
    log_text: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Direction {
    #[default]
    Received,
    Sent,
}

impl Direction {
    fn prefix(self) -> &'static str {
        match self {
            Self::Received => "< ",
            Self::Sent => "> ",
        }
    }
}

impl Transcript {
    /// A transcript into `console.log`, `console.raw` and `console.times` of `dir`, which is made if need be.
    pub(crate) fn create(dir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(dir).map_err(|source| Error::Transcript {
            path: dir.to_owned(),
            source,
        })?;
        Ok(Self {
            log: Some(Sink::create(dir.join("console.log"))?),
            raw: Some(Sink::create(dir.join("console.raw"))?),
            times: Some(Sink::create(dir.join("console.times"))?),
            ..Self::default()
        })
    }

    /// Takes over what another transcript has in its directory. The last lines are those from now on.
    pub(crate) fn continue_from(&mut self, dir: &Path) -> Result<(), Error> {
        let read = |name| {
            let path = dir.join(name);
            fs::read(&path).map_err(|source| Error::Transcript { path, source })
        };
        let (log, raw) = (read("console.log")?, read("console.raw")?);
        self.write_log(&log);
        self.write_raw(&raw);
        // The shell may still have the prompt that the earlier console gave it.
        if let Some(prompt) = typing::last_prompt(&raw) {
            typing::shown_prompts(&prompt)
                .iter()
                .for_each(|text| self.hide(text));
        }
        Ok(())
    }

    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.write_raw(bytes);
        let shown = self.echo.received(bytes);
        self.show(shown);
    }

    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        self.record(Direction::Sent, bytes);
    }

    /// Typed by alpy for itself: it is not shown, nor its echo while a [dialogue](Self::begin_aside) goes on.
    pub(crate) fn sent_aside(&mut self, bytes: &[u8]) {
        self.echo.typed(bytes);
    }

    /// What is typed and echoed from here on is a matter of alpy's.
    pub(crate) fn begin_aside(&mut self) {
        let shown = self.echo.begin_typing();
        self.show(shown);
    }

    pub(crate) fn end_aside(&mut self) {
        let shown = self.echo.end_typing();
        self.show(shown);
    }

    /// Whether what is sent is a part of such a dialogue. While a command runs, it is not: a person may type.
    pub(crate) fn is_aside(&self) -> bool {
        self.echo.is_typing()
    }

    /// A command is about to be typed. Of it this text is shown, then its output and its code.
    pub(crate) fn begin_command(&mut self, id: &str, begins: usize, text: &str) {
        let shown = self.echo.begin_command(id, begins);
        self.show(shown);
        for (index, line) in command_lines(text).iter().enumerate() {
            let prefix = if index == 0 { "$ " } else { "  " };
            self.note(&format!("{prefix}{line}"));
        }
    }

    /// A text that is shown nowhere but in `console.raw`, wherever it comes.
    pub(crate) fn hide(&mut self, text: &str) {
        self.echo.hide(text);
    }

    fn show(&mut self, shown: Vec<Shown>) {
        for part in shown {
            match part {
                Shown::Received(bytes) => {
                    self.remember(&bytes);
                    self.record(Direction::Received, &bytes);
                }
                Shown::Code(code) => self.note(&format!("[exit code {code}]")),
            }
        }
    }

    fn remember(&mut self, bytes: &[u8]) {
        self.recent
            .extend_from_slice(&bytes[bytes.len().saturating_sub(RECENT)..]);
        if self.recent.len() > 4 * RECENT {
            self.recent.drain(..self.recent.len() - RECENT);
        }
    }

    /// A line of its own that nobody has said.
    fn note(&mut self, line: &str) {
        self.time();
        let mut log = Vec::new();
        self.end_line(&mut log);
        let text = escaped(line.as_bytes());
        log.extend_from_slice(text.as_bytes());
        log.push(b'\n');
        self.write_log(&log);
        tracing::debug!(target: "alpy::console", "{text}");
        if self.recent.last().is_some_and(|last| *last != b'\n') {
            self.remember(b"\n");
        }
        self.remember(line.as_bytes());
        self.remember(b"\n");
    }

    /// A part of a line of this length, its end included, that nobody is to read.
    pub(crate) fn sent_in_secret(&mut self, length: usize, part: Range<usize>) {
        if part.is_empty() {
            return;
        }
        if part.start == 0 {
            self.record(Direction::Sent, SECRET);
        }
        if part.end == length {
            self.record(Direction::Sent, b"\n");
        }
    }

    /// Writes what was held back in the hope of more, and ends the last line.
    pub(crate) fn finish(&mut self) {
        let shown = self.echo.end_typing();
        self.show(shown);
        let mut log = Vec::new();
        self.end_line(&mut log);
        self.write_log(&log);
    }

    /// The last lines received.
    pub(crate) fn tail(&self, lines: usize) -> String {
        let pending = self.echo.pending();
        match pending.is_empty() {
            true => last_lines(&self.recent, lines),
            false => last_lines(&[&self.recent[..], &pending].concat(), lines),
        }
    }

    /// What the last lines are made of.
    pub(crate) fn recent(&self) -> &[u8] {
        &self.recent
    }

    /// Has the last lines be those of an earlier moment.
    pub(crate) fn forget_since(&mut self, recent: Vec<u8>) {
        self.recent = recent;
    }

    /// The first failure to write, once.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn record(&mut self, direction: Direction, bytes: &[u8]) {
        self.time();
        let mut log = std::mem::take(&mut self.log_text);
        log.clear();
        if self.direction != direction {
            self.end_line(&mut log);
            self.direction = direction;
        }
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        self.escaper.push(bytes, &mut text);
        self.lay_out(&text, &mut log);
        self.write_log(&log);
        self.text = text;
        self.log_text = log;
    }

    fn lay_out(&mut self, text: &[u8], log: &mut Vec<u8>) {
        let prefix = self.direction.prefix().as_bytes();
        // Not by `enabled!`: a subscriber whose layers have filters of their own would then take the next event for a filtered one.
        let traced = LevelFilter::current() >= LevelFilter::DEBUG;
        let mut start = 0;
        let ends = memchr::memchr_iter(b'\n', text).map(|end| end + 1);
        for end in ends.chain([text.len()]) {
            let piece = &text[start..end];
            if piece.is_empty() {
                break;
            }
            start = end;
            if !self.open {
                log.extend_from_slice(prefix);
            }
            log.extend_from_slice(piece);
            self.open = !piece.ends_with(b"\n");
            if traced {
                self.traced.extend_from_slice(piece);
                if !self.open || self.traced.len() > TRACED_LINE {
                    self.trace();
                }
            }
        }
    }

    /// Ends the line that the other direction left open, or that nobody will end any more.
    fn end_line(&mut self, log: &mut Vec<u8>) {
        let mut held = Vec::new();
        self.escaper.finish(&mut held);
        self.lay_out(&held, log);
        if self.open {
            log.push(b'\n');
            self.open = false;
            self.trace();
        }
    }

    fn trace(&mut self) {
        let line = String::from_utf8_lossy(self.traced.strip_suffix(b"\n").unwrap_or(&self.traced));
        tracing::debug!(target: "alpy::console", "{}{line}", self.direction.prefix());
        self.traced.clear();
    }

    /// Notes the time for what comes next in the log.
    fn time(&mut self) {
        if self.times.is_none() {
            return;
        }
        let now = Instant::now();
        if self.timed.is_some_and(|timed| now - timed < BETWEEN_TIMES) {
            return;
        }
        self.timed = Some(now);
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since_epoch.unwrap_or_default().as_secs_f64();
        let entry = format!("{} {seconds:.3}\n", self.logged);
        write(&mut self.times, entry.as_bytes(), &mut self.failure);
    }

    fn write_log(&mut self, log: &[u8]) {
        self.logged += log.len() as u64;
        write(&mut self.log, log, &mut self.failure);
    }

    fn write_raw(&mut self, bytes: &[u8]) {
        write(&mut self.raw, bytes, &mut self.failure);
    }
}

/// A command as it is shown: its first lines, none of them too long.
fn command_lines(text: &str) -> Vec<String> {
    const LINES: usize = 20;
    let count = text.lines().count();
    let lines = text.lines().take(LINES);
    let mut lines: Vec<_> = lines.map(|line| shortened(line).into_owned()).collect();
    if count > LINES {
        lines.push(format!("({} lines more)", count - LINES));
    }
    lines
}

struct Sink {
    path: PathBuf,
    file: File,
}

impl Sink {
    fn create(path: PathBuf) -> Result<Self, Error> {
        // Replaced, not written to: a symbolic link that somebody put there might lead elsewhere.
        let replaced = match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::create_new(&path),
        };
        match replaced {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(Error::Transcript { path, source }),
        }
    }
}

/// Writes, or remembers why not: a full disk must not stop the console, and may have room again later.
fn write(sink: &mut Option<Sink>, bytes: &[u8], failure: &mut Option<Error>) {
    let Some(Sink { file, path }) = sink else { return };
    if let Err(source) = file.write_all(bytes) {
        let path = path.clone();
        failure.get_or_insert(Error::Transcript { path, source });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn goes_on_behind_another_transcript_with_what_that_one_had_not_read() {
        use std::time::Duration;

        use tokio::io::AsyncWriteExt;

        let deadline = Duration::from_secs(10);
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (near, mut far) = tokio::io::duplex(100);
        let builder = crate::Console::builder().transcript(first.path());
        let console = builder.start(near).unwrap();
        far.write_all(b"login: # more").await.unwrap();
        console.expect("# ", deadline).await.unwrap();
        console.send_line("id").await.unwrap();
        console.expect("more", deadline).await.unwrap();
        console.close(deadline).await.unwrap();

        let (near, mut far) = tokio::io::duplex(100);
        let builder = crate::Console::builder()
            .transcript(second.path())
            .history(first.path(), "more");
        let console = builder.start(near).unwrap();
        far.write_all(b" and more$").await.unwrap();
        let read = console.expect_string("$", deadline).await.unwrap();
        assert_eq!(read, "more and more");
        assert_eq!(console.tail(5), " and more$");
        console.close(deadline).await.unwrap();
        let log = fs::read_to_string(second.path().join("console.log")).unwrap();
        let before = fs::read_to_string(first.path().join("console.log")).unwrap();
        assert!(before.contains("> id\n"), "{before}");
        assert_eq!(log, format!("{before}<  and more$\n"));
        let raw = fs::read(second.path().join("console.raw")).unwrap();
        assert_eq!(raw, b"login: # more and more$");
        // What was said before has no time here.
        let times = fs::read_to_string(second.path().join("console.times")).unwrap();
        assert!(times.starts_with(&format!("{} ", before.len())), "{times}");
    }

    #[test]
    fn the_prompt_of_an_earlier_console_is_hidden_too() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut transcript = Transcript::create(first.path()).unwrap();
        transcript.received(b"PS1=alpy-''0a0a0a0a'# '\r\nalpy-0a0a0a0a# \x1b[6n");
        let mut transcript = Transcript::create(second.path()).unwrap();
        transcript.continue_from(first.path()).unwrap();
        transcript.received(b"alpy-0a0a0a0a# \x1b[6nid\r\nroot\r\nalpy-0a0a0a0b# ");
        assert_eq!(transcript.tail(10), "id\nroot\nalpy-0a0a0a0b# ");
    }

    #[test]
    fn says_when_what_is_behind_a_place_in_the_log_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let mut transcript = Transcript::create(dir.path()).unwrap();
        let now = || {
            let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            since_epoch.unwrap().as_secs_f64()
        };
        let began = now();
        transcript.received(b"login: ");
        transcript.sent(b"root\n");
        // As if that had been a while ago.
        transcript.timed = transcript
            .timed
            .and_then(|timed| timed.checked_sub(BETWEEN_TIMES));
        transcript.received(b"# ");
        let times = fs::read_to_string(dir.path().join("console.times")).unwrap();
        let entries = times.lines().map(|line| line.split_once(' ').unwrap());
        let (places, seconds): (Vec<_>, Vec<f64>) = entries
            .map(|(place, seconds)| (place, seconds.parse::<f64>().unwrap()))
            .unzip();
        let before = "< login: \n> root\n".len().to_string();
        assert_eq!(places, ["0", &before]);
        let near = |seconds: &f64| (began - 0.001..=now() + 0.001).contains(seconds);
        assert!(seconds.iter().all(near), "{times}");
    }

    #[test]
    fn goes_on_when_the_disk_is_full_and_says_so_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut transcript = Transcript::create(dir.path()).unwrap();
        let path = dir.path().join("console.raw");
        // full(4): each write is refused as on a full disk.
        let file = File::options().write(true).open("/dev/full").unwrap();
        transcript.raw = Some(Sink {
            path: path.clone(),
            file,
        });
        transcript.received(b"login: ");
        transcript.finish();
        match transcript.take_failure() {
            Some(Error::Transcript { path: named, .. }) => assert_eq!(named, path),
            other => panic!("{other:?}"),
        }
        let log = fs::read_to_string(dir.path().join("console.log")).unwrap();
        assert_eq!(log, "< login: \n");
    }
}
