// SPDX-License-Identifier: GPL-3.0-or-later
//! The console: expect and send.

use std::future::{pending, poll_fn};
use std::io;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep, timeout};

use crate::matcher::{Searcher, Unread};
use crate::observer::Observer;
use crate::shared::{Shared, State};
use crate::transcript::Transcript;
use crate::{Builder, Error, Match, ReadUntil, Running, Timer};

/// How many lines an error shows of what came last.
const SEEN_LINES: usize = 30;
/// A pause this long is worth a look at everything for a regular expression with a long match.
const PAUSE: Duration = Duration::from_millis(50);

/// Records a part of what is sent, as soon as it was: which part of which bytes.
type Record = fn(&mut Transcript, &[u8], Range<usize>);

/// A serial console: a stream that is read in the background, recorded, and searched for what a test expects.
///
/// Clones are handles of the same console: they share one reading position, and what one has read another does not see. When
/// the last handle is dropped the background reader ends and the stream is closed.
///
/// Every method that waits takes a deadline, counted from the call and measured by the console's [`Timer`].
#[derive(Clone)]
pub struct Console {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    /// `None` once the console is closed.
    pub(crate) writer: Mutex<Option<Pin<Box<dyn AsyncWrite + Send>>>>,
    pub(crate) runtime: Handle,
    pub(crate) send_deadline: Duration,
    pub(crate) timer: Timer,
    pub(crate) observer: Option<Observer>,
    pub(crate) closing: watch::Sender<bool>,
    pub(crate) reader: AbortHandle,
}

impl Console {
    /// Settings with their defaults: no transcript, a window of 4 MiB.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Waits until `needle` has come and reads up to its end.
    ///
    /// What came before the call and was not read yet counts. The needle is searched for once in each byte, however long the
    /// wait, and the deadline holds while output floods.
    ///
    /// Cancel safe: a call that is dropped, or that fails, has read nothing.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Ended`], or [`Error::NeedleTooLong`] if the window cannot hold the needle.
    pub async fn expect(&self, needle: impl Into<ReadUntil>, deadline: Duration) -> Result<Match, Error> {
        self.read_until(&needle.into(), deadline).await
    }

    /// Waits for this text and returns what came before it; see [`expect`](Self::expect), also for errors and cancel safety.
    ///
    /// Bytes that are not UTF-8 become U+FFFD; [`expect`](Self::expect) has the bytes.
    pub async fn expect_string(&self, needle: &str, deadline: Duration) -> Result<String, Error> {
        let found = self.expect(needle, deadline).await?;
        Ok(text(found.before))
    }

    /// Waits for a match of this pattern; see [`Regex`](crate::Regex), and [`expect`](Self::expect) for cancel safety.
    ///
    /// # Errors
    /// As [`expect`](Self::expect), and [`Error::Regex`] if the pattern is none.
    pub async fn expect_regex(&self, pattern: &str, deadline: Duration) -> Result<Match, Error> {
        self.expect(ReadUntil::regex(pattern)?, deadline).await
    }

    /// Waits for the first of several needles, [`Match::index`] says which; see [`ReadUntil::Any`], and
    /// [`expect`](Self::expect) for errors and cancel safety.
    pub async fn expect_any<N>(&self, needles: N, deadline: Duration) -> Result<Match, Error>
    where
        N: IntoIterator<Item: Into<ReadUntil>>,
    {
        let needles = needles.into_iter().map(Into::into).collect();
        self.expect(ReadUntil::Any(needles), deadline).await
    }

    /// Waits for the end of the stream and returns all that was unread; see [`expect`](Self::expect), also for errors and
    /// cancel safety. Bytes that are not UTF-8 become U+FFFD.
    pub async fn expect_eof(&self, deadline: Duration) -> Result<String, Error> {
        let found = self.expect(ReadUntil::EOF, deadline).await?;
        Ok(text(found.matched))
    }

    /// Reads a line and returns it without its end, `\n` or `\r\n`; see [`expect`](Self::expect), also for errors and cancel
    /// safety. Bytes that are not UTF-8 become U+FFFD.
    pub async fn read_line(&self, deadline: Duration) -> Result<String, Error> {
        let mut line = self.expect("\n", deadline).await?.before;
        if line.ends_with(b"\r") {
            line.pop();
        }
        Ok(text(line))
    }

    /// Reads what has come so far and was not read yet, without waiting; empty if there is nothing.
    pub fn try_read(&self) -> Vec<u8> {
        let window = &mut self.inner.shared.state().window;
        let length = window.unread().len();
        window.take(length).0
    }

    /// Sends these bytes, within the [send deadline](Builder::send_deadline) of the console.
    ///
    /// Not cancel safe: a part may have been sent, which the transcript shows. Two sends at once do not mix.
    ///
    /// # Errors
    /// [`Error::SendTimeout`] if the far end does not take them, [`Error::Send`] if it is gone; both say how much was sent.
    pub async fn send(&self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        let record: Record = |transcript, bytes, part| match transcript.is_aside() {
            true => transcript.sent_aside(&bytes[part]),
            false => transcript.sent(&bytes[part]),
        };
        self.send_recorded(bytes.as_ref(), record).await
    }

    /// Sends a line and its end, `\n`; see [`send`](Self::send), also for errors and cancel safety.
    pub async fn send_line(&self, line: &str) -> Result<(), Error> {
        self.send(format!("{line}\n")).await
    }

    /// Sends a line that nobody is to read, such as a password, and its end, `\n`: in the transcript and in the log it is `<password>`. What the far
    /// end echoes is recorded as all that it says. See [`send`](Self::send), also for errors and cancel safety.
    pub async fn send_secret_line(&self, secret: &str) -> Result<(), Error> {
        let record: Record = |transcript, line, part| transcript.sent_in_secret(line.len(), part);
        self.send_recorded(format!("{secret}\n").as_bytes(), record).await
    }

    /// Sends a line of alpy's own: only `console.raw` has its echo.
    pub(crate) async fn send_line_aside(&self, line: &str) -> Result<(), Error> {
        self.send_aside(format!("{line}\n").as_bytes()).await
    }

    /// The same for bytes.
    pub(crate) async fn send_aside(&self, bytes: &[u8]) -> Result<(), Error> {
        let record: Record = |transcript, bytes, part| transcript.sent_aside(&bytes[part]);
        self.send_recorded(bytes, record).await
    }

    /// Sends a control character: `send_control('c')` is Ctrl-C. Cancel safe: one byte is sent or none.
    ///
    /// # Errors
    /// As [`send`](Self::send), and [`Error::Control`] if there is no control code for the character: there is for letters of
    /// either case and `@ [ \ ] ^ _`.
    pub async fn send_control(&self, character: char) -> Result<(), Error> {
        match character.to_ascii_uppercase() {
            code @ '@'..='_' => self.send([code as u8 & 0x1f]).await,
            _ => Err(Error::Control(character)),
        }
    }

    /// The last `lines` lines received, read or not, escapes shown as in the transcript: for error messages. Of a program that draws a
    /// whole screen, as firmware does, the last texts. At most 16 KiB are kept for this.
    pub fn tail(&self, lines: usize) -> String {
        self.inner.shared.transcript().tail(lines)
    }

    /// Awaits a dialogue that says nothing of the guest, as one that prepares a shell. What came meanwhile is not among the [last lines](Self::tail)
    /// then, unless the dialogue has failed. Of what is sent meanwhile and of its echo, `console.log` has nothing, and `console.raw` all.
    ///
    /// Cancel safe as the dialogue is.
    ///
    /// # Errors
    /// Those of the dialogue.
    pub async fn aside<T, E>(&self, dialogue: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let before = self.inner.shared.transcript().recent().to_vec();
        let aside = Aside::begin(&self.inner.shared);
        let value = dialogue.await?;
        drop(aside);
        self.inner.shared.transcript().forget_since(before);
        Ok(value)
    }

    /// From now on, leaves a text out of `console.log` and of the [last lines](Self::tail), such as a mark that the guest prints in a dialogue
    /// [aside](Self::aside). `console.raw` still has it. The console remembers the last 16 such texts.
    pub fn hide(&self, text: &str) {
        self.inner.shared.transcript().hide(text);
    }

    /// Stops reading, after what is already there, and ends the transcript. Every handle sees the end of the stream then.
    ///
    /// Closing twice, or after the far end closed, is fine. Cancel safe: a console that began to close goes on to.
    ///
    /// # Errors
    /// [`Error::Transcript`] if a file of the transcript could not be written some time since the start, [`Error::Timeout`] if
    /// the reader is still busy at the deadline; it is stopped then.
    pub async fn close(&self, deadline: Duration) -> Result<(), Error> {
        self.inner.closing.send_replace(true);
        let start = Instant::now();
        let closed = timeout(deadline, async {
            self.ended().await;
            self.inner.writer.lock().await.take();
        });
        let closed = closed
            .await
            .map_err(|_| self.timed_out("the console to close".to_owned(), deadline, start));
        self.inner.reader.abort();
        match self.inner.shared.transcript().take_failure() {
            Some(failure) => Err(failure),
            None => closed,
        }
    }

    /// The last lines that came, as errors show them.
    pub(crate) fn seen(&self) -> String {
        self.tail(SEEN_LINES)
    }

    /// What came and was not read yet, to look at it.
    pub(crate) fn unread(&self) -> Vec<u8> {
        self.inner.shared.state().window.unread().to_vec()
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// The function that is called for each command.
    pub(crate) fn observer(&self) -> Option<&Observer> {
        self.inner.observer.as_ref()
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.inner.runtime
    }

    pub(crate) async fn read_until(&self, needle: &ReadUntil, deadline: Duration) -> Result<Match, Error> {
        let mut searcher = Searcher::new(needle);
        let window = self.inner.shared.state().window.limit();
        if searcher.longest() > window {
            return Err(Error::NeedleTooLong {
                expected: needle.to_string(),
                bytes: searcher.longest(),
                window,
            });
        }
        let start = Instant::now();
        // A wait that needs none costs nothing.
        let mut timer: Option<Running> = None;
        let (mut paused, mut over) = (false, false);
        loop {
            let mut arrived = pin!(self.inner.shared.arrived.notified());
            arrived.as_mut().enable();
            let attempt = attempt(&mut self.inner.shared.state(), &mut searcher, paused);
            match attempt {
                Attempt::Found(found) => return Ok(found),
                Attempt::Ended(reason) => {
                    return Err(Error::Ended {
                        expected: needle.to_string(),
                        reason,
                        seen: self.seen(),
                    });
                }
                Attempt::NotYet => {}
            }
            if over {
                return Err(self.timed_out(needle.to_string(), deadline, start));
            }
            let timer = timer.get_or_insert_with(|| self.timer(deadline));
            #[expect(
                clippy::disallowed_methods,
                reason = "more bytes may come, or none: the search goes on after a pause"
            )]
            let pause = async {
                match searcher.may_find_more() {
                    true => sleep(PAUSE).await,
                    false => pending().await,
                }
            };
            paused = tokio::select! {
                // The limit holds while output floods.
                biased;
                () = timer => {
                    // On a busy host the reader may not have had its turn since the bytes came.
                    yield_now().await;
                    over = true;
                    true
                }
                () = arrived => false,
                () = pause => true,
            };
        }
    }

    /// Starts to measure a limit.
    pub(crate) fn timer(&self, limit: Duration) -> Running {
        (self.inner.timer)(limit)
    }

    pub(crate) fn timed_out(&self, expected: String, after: Duration, start: Instant) -> Error {
        let dropped = self.inner.shared.state().window.dropped();
        Error::Timeout {
            expected,
            after,
            waited: start.elapsed(),
            seen: self.seen(),
            dropped,
        }
    }

    async fn ended(&self) {
        loop {
            let mut arrived = pin!(self.inner.shared.arrived.notified());
            arrived.as_mut().enable();
            if self.inner.shared.state().end.is_some() {
                return;
            }
            arrived.await;
        }
    }

    async fn send_recorded(&self, bytes: &[u8], record: Record) -> Result<(), Error> {
        let (length, after) = (bytes.len(), self.inner.send_deadline);
        let mut sent = 0;
        let written = {
            let write = pin!(self.write_all(bytes, record, &mut sent));
            // Most writes end at once: the timer starts with the first one that does not.
            let over = async { self.timer(after).await };
            tokio::select! {
                biased;
                written = write => Some(written),
                () = over => None,
            }
        };
        match written {
            Some(Ok(())) => Ok(()),
            Some(Err(source)) => Err(Error::Send { sent, length, source }),
            None => Err(Error::SendTimeout { sent, length, after }),
        }
    }

    async fn write_all(&self, bytes: &[u8], record: Record, sent: &mut usize) -> io::Result<()> {
        let mut writer = self.inner.writer.lock().await;
        let writer = writer.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        while *sent < bytes.len() {
            let rest = &bytes[*sent..];
            *sent += poll_fn(|context| {
                // The reader needs the transcript before it can record the echo, which so comes after its cause.
                let mut transcript = self.inner.shared.transcript();
                let written = ready!(writer.as_mut().poll_write(context, rest))?;
                record(&mut transcript, bytes, *sent..*sent + written);
                Poll::Ready(match written {
                    0 => Err(io::Error::from(io::ErrorKind::WriteZero)),
                    _ => Ok(written),
                })
            })
            .await?;
        }
        poll_fn(|context| writer.as_mut().poll_flush(context)).await
    }
}

impl From<Inner> for Console {
    fn from(inner: Inner) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.inner.shared.state();
        f.debug_struct("Console")
            .field("unread", &state.window.unread().len())
            .field("end", &state.end)
            .finish_non_exhaustive()
    }
}

/// A dialogue of alpy's with a shell, which may be dropped at any moment.
struct Aside<'a>(&'a Shared);

impl<'a> Aside<'a> {
    fn begin(shared: &'a Shared) -> Self {
        shared.transcript().begin_aside();
        Self(shared)
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.0.transcript().end_aside();
    }
}

enum Attempt {
    Found(Match),
    Ended(String),
    NotYet,
}

/// Looks and, if there is a match, reads it: in one step, so that nothing is lost between the two.
fn attempt(state: &mut State, searcher: &mut Searcher<'_>, paused: bool) -> Attempt {
    let unread = Unread {
        bytes: state.window.unread(),
        position: state.window.position(),
        cut: state.window.dropped() > 0,
        ended: state.end.is_some(),
    };
    let hit = if paused || unread.ended {
        searcher.look_at_all(&unread)
    } else {
        searcher.look(&unread)
    };
    if let Some(hit) = hit {
        let captures = hit.captures.into_iter();
        let captures = captures
            .map(|group| group.map(|range| unread.bytes[range].to_vec()))
            .collect();
        let (mut before, dropped) = state.window.take(hit.range.end);
        let matched = before.split_off(hit.range.start);
        return Attempt::Found(Match {
            before,
            matched,
            captures,
            index: hit.index,
            dropped,
        });
    }
    match &state.end {
        Some(reason) => Attempt::Ended(reason.clone()),
        None => Attempt::NotYet,
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
