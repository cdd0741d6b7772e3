// SPDX-License-Identifier: GPL-3.0-or-later
//! Captures that grow: follow them, expect frames in them.

use std::fs::File;
use std::future::{Future, pending, poll_fn, ready};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::panic::Location;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest};
use tokio::time::{Instant, timeout};

use crate::format::{file_header, record_header};
use crate::timer::Clock;
use crate::{Capture, Error, Packet, Reader, Running, Timer};

/// How many frames an expectation that fails shows.
const SHOWN: usize = 20;

/// How many frames are looked at before other tasks have their turn.
const TURN: usize = 1024;

/// The longest time between two looks at a file. Where inotify(7) tells of each change, it is there for what that could miss, such
/// as a file on a network.
const LOOK: Duration = Duration::from_millis(100);

/// The time between two looks where the user has no inotify instance or watch left (`fs.inotify.max_user_instances`,
/// `fs.inotify.max_user_watches`).
const LOOK_WITHOUT_INOTIFY: Duration = Duration::from_millis(1);

/// The packets of a capture one after another, those too that are still to come; made by [`Capture::follow`].
#[derive(Debug)]
pub struct Follower {
    capture: Capture,
    reader: Reader<File>,
    changes: Option<Changes>,
}

impl Capture {
    /// Measures the limits of [`expect`](Self::expect) and [`expect_none`](Self::expect_none) with this timer, for this capture and the parts
    /// that are made of it. Default: wall time.
    #[must_use]
    pub fn timer(mut self, timer: Timer) -> Self {
        self.clock = Clock(timer);
        self
    }

    /// Sets the moment from which errors of [`expect`](Self::expect) and [`expect_none`](Self::expect_none) count the times of frames, in seconds, for
    /// this capture and for parts of it. The times are exact to some milliseconds: the last frame of the file counts as written when the file
    /// changed last. Default: errors show the time of day by the clock of the capture.
    #[must_use]
    pub fn clock_start(mut self, moment: SystemTime) -> Self {
        self.clock_start = Some(moment);
        self
    }

    /// Follows the file as it grows.
    ///
    /// It has to be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`Reader::open`], and [`Error::Follow`].
    pub fn follow(&self) -> Result<Follower, Error> {
        // Before the first look at the file: what is written between the two then counts as a change.
        let changes = Changes::of(self.path()).map_err(|source| Error::Follow {
            origin: self.path().display().to_string(),
            source,
        })?;
        Ok(Follower {
            reader: self.reader()?,
            capture: self.clone(),
            changes,
        })
    }

    /// The first packet that `predicate` holds for. Waits for it, if it is not there yet.
    ///
    /// What is in this capture already counts: to look at later packets only, ask a part of it, [since](Self::since) a mark.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), alpy_pcap::Error> {
    /// use std::time::Duration;
    ///
    /// use alpy_pcap::{Capture, filter};
    ///
    /// let wan = Capture::open("link1.pcap")?;
    /// let start = wan.mark("the server starts")?;
    /// // Then somebody starts the server.
    /// let opened = wan.since(&start)?.expect(filter::tcp_syn_to(80), Duration::from_secs(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unseen`] with the last frames, [`Error::Follow`]; as [`Reader::open`] and [`Reader::next_frame`].
    ///
    /// Cancel safe.
    #[track_caller]
    pub fn expect(
        &self,
        predicate: impl Fn(&Packet<'_>) -> bool,
        within: Duration,
    ) -> impl Future<Output = Result<Packet<'static>, Error>> {
        let asked = Location::caller();
        async move {
            let mut search = Search::begin(self, within)?;
            if let Some(packet) = search.find(&predicate).await? {
                return Ok(packet);
            }
            Err(Error::Unseen {
                origin: self.path().display().to_string(),
                asked,
                within,
                waited: search.began.elapsed(),
                looked_at: search.looked_at,
                last: self.last_lines(&self.times()?)?,
                since_start: self.clock_start.is_some(),
            })
        }
    }

    /// Expects that there is no packet that `predicate` holds for, and that none comes for a while. Returns how many others there
    /// were: if nothing came at all, it may have had nothing to do with the predicate.
    ///
    /// What is in this capture already counts, as with [`expect`](Self::expect). A part that ends with a mark is looked at, and not
    /// waited for.
    ///
    /// # Errors
    /// [`Error::Seen`] with the packet, at once; [`Error::Follow`]; as [`Reader::open`] and [`Reader::next_frame`].
    ///
    /// Cancel safe.
    #[track_caller]
    pub fn expect_none(
        &self,
        predicate: impl Fn(&Packet<'_>) -> bool,
        during: Duration,
    ) -> impl Future<Output = Result<usize, Error>> {
        let asked = Location::caller();
        async move {
            let mut search = Search::begin(self, during)?;
            let Some(packet) = search.find(&predicate).await? else {
                return Ok(search.looked_at);
            };
            let times = self.times()?;
            Err(Error::Seen {
                origin: self.path().display().to_string(),
                asked,
                packet: times.line(&packet).trim_start().to_owned(),
                last: self.last_lines(&times)?,
                since_start: self.clock_start.is_some(),
            })
        }
    }

    /// Writes a classic pcap to `output` with what is in this capture and then each frame as it comes: for a pipe to a program that
    /// shows it, such as `wireshark -k -i -` or `tcpdump -n -r -`. Ends with the first frame after nobody reads the pipe any more, and where the capture ends
    /// with a mark.
    ///
    /// # Errors
    /// [`Error::Stream`], [`Error::Follow`]; as [`Reader::open`] and [`Reader::next_frame`].
    ///
    /// Not cancel safe: a part of a record may be written.
    pub async fn stream_to(&self, output: impl AsyncWrite + Unpin) -> Result<(), Error> {
        self.stream_until(output, pending()).await
    }

    /// The same until `end` is at its end, which says that nothing is written to the capture any more: what is there is streamed yet.
    ///
    /// # Errors
    /// As [`stream_to`](Self::stream_to).
    ///
    /// Not cancel safe, as `stream_to`.
    pub async fn stream_until(
        &self,
        mut output: impl AsyncWrite + Unpin,
        end: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let mut follower = self.follow()?;
        let (mut end, mut ended) = (pin!(end), false);
        let streamed = async {
            output.write_all(&file_header()).await?;
            while !follower.is_at_end() {
                match follower.try_next_packet() {
                    Ok(Some(packet)) => {
                        let record = [&record_header(packet.frame())[..], packet.frame().bytes()].concat();
                        output.write_all(&record).await?;
                        output.flush().await?;
                        continue;
                    }
                    Ok(None) if ended => break,
                    Ok(None) => {}
                    Err(error) => return Ok(Err(error)),
                }
                // Once more after the end, for what was written just before it.
                match first(end.as_mut(), pin!(follower.changed())).await {
                    Some(Ok(())) => {}
                    Some(Err(error)) => return Ok(Err(error)),
                    None => ended = true,
                }
            }
            Ok(Ok(()))
        };
        match streamed.await {
            Ok(followed) => followed,
            Err(error) if io::Error::kind(&error) == io::ErrorKind::BrokenPipe => Ok(()),
            Err(source) => Err(Error::Stream {
                origin: self.path().display().to_string(),
                source,
            }),
        }
    }

    fn last_lines(&self, times: &Times) -> Result<Vec<String>, Error> {
        let last = self.clone().ignore_torn_tail().last(SHOWN)?;
        Ok(last.iter().map(|packet| times.line(packet)).collect())
    }

    fn times(&self) -> Result<Times, Error> {
        let Some(start) = self.clock_start else {
            return Ok(Times::OfDay);
        };
        let written = std::fs::metadata(self.path()).and_then(|file| file.modified());
        let written = written.map_err(|source| Error::Open {
            origin: self.path().display().to_string(),
            source,
        })?;
        let last = self.whole().ignore_torn_tail().last(1)?;
        let last = last
            .first()
            .map_or(0.0, |packet| packet.frame().timestamp().as_secs_f64());
        let since_start = written.duration_since(start).unwrap_or_default().as_secs_f64();
        Ok(Times::SinceStart {
            ahead: since_start - last,
        })
    }
}

/// How an error shows the time of a frame.
enum Times {
    /// By the clock of the capture.
    OfDay,
    /// In seconds since a moment: the time by the clock of the capture, plus `ahead`.
    SinceStart { ahead: f64 },
}

impl Times {
    fn line(&self, packet: &Packet<'_>) -> String {
        match self {
            Self::OfDay => packet.to_string(),
            Self::SinceStart { ahead } => {
                let at = packet.frame().timestamp().as_secs_f64() + ahead;
                format!("{at:8.4}  {}", packet.summary())
            }
        }
    }
}

impl Follower {
    /// The next packet. Waits for it, if it is not there yet; none where the capture ends with a mark.
    ///
    /// # Errors
    /// As [`Reader::next_frame`], but that a torn record is waited for.
    ///
    /// Cancel safe.
    pub async fn next_packet(&mut self) -> Result<Option<Packet<'_>>, Error> {
        loop {
            if self.is_at_end() {
                return Ok(None);
            }
            if self.reader.has_frame()? {
                break;
            }
            self.changed().await?;
        }
        self.try_next_packet()
    }

    /// The next packet, if it is there.
    ///
    /// # Errors
    /// As [`next_packet`](Self::next_packet).
    pub fn try_next_packet(&mut self) -> Result<Option<Packet<'_>>, Error> {
        if self.is_at_end() || !self.reader.has_frame()? {
            return Ok(None);
        }
        Ok(self.reader.next_frame()?.map(Packet::decode))
    }

    fn is_at_end(&self) -> bool {
        self.capture.ends_at(self.reader.offset())
    }

    /// Waits until the file may have changed.
    async fn changed(&mut self) -> Result<(), Error> {
        let (look, changes) = match &self.changes {
            Some(changes) => (LOOK, Some(changes)),
            None => (LOOK_WITHOUT_INOTIFY, None),
        };
        let news = async {
            match changes {
                Some(changes) => changes.wait().await,
                None => pending().await,
            }
        };
        match timeout(look, news).await {
            Ok(Err(source)) => Err(Error::Follow {
                origin: self.capture.path().display().to_string(),
                source,
            }),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }
}

/// What the second future gives, unless the first one is at its end before.
async fn first<T>(
    mut end: Pin<&mut impl Future<Output = ()>>,
    mut other: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    poll_fn(|context| match end.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => other.as_mut().poll(context).map(Some),
    })
    .await
}

/// Tells when a file has changed.
#[derive(Debug)]
struct Changes(AsyncFd<Descriptor>);

#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Changes {
    /// None if the user has no instance or no watch left.
    fn of(path: &Path) -> io::Result<Option<Self>> {
        let inotify = match Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK) {
            Ok(inotify) => inotify,
            Err(Errno::EMFILE) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match inotify.add_watch(path, AddWatchFlags::IN_MODIFY) {
            Ok(_) => {}
            Err(Errno::ENOSPC | Errno::ENOMEM) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let descriptor = Descriptor(inotify);
        // SAFETY: the descriptor is open, and is closed when `AsyncFd` drops its owner; nobody replaces it.
        let changes = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?;
        Ok(Some(Self(changes)))
    }

    async fn wait(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            // However many they are, they tell one thing. If there is none, the file is as it was at the last look.
            if let Ok(events) = ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?)) {
                return events.map(drop);
            }
        }
    }
}

/// A look for a packet, for a while.
struct Search {
    follower: Follower,
    began: Instant,
    timer: Running,
    looked_at: usize,
}

impl Search {
    fn begin(capture: &Capture, within: Duration) -> Result<Self, Error> {
        Ok(Self {
            follower: capture.follow()?,
            began: Instant::now(),
            timer: (capture.clock.0)(within),
            looked_at: 0,
        })
    }

    /// None if there is no such packet in what was written up to the deadline, or up to the end of what can be.
    async fn find(
        &mut self,
        predicate: &impl Fn(&Packet<'_>) -> bool,
    ) -> Result<Option<Packet<'static>>, Error> {
        // Where the file ended at the deadline. It may grow for ever, and faster than it is read.
        let mut end = None;
        loop {
            while let Some(packet) = self.follower.try_next_packet()? {
                if predicate(&packet) {
                    return Ok(Some(packet.into_owned()));
                }
                self.looked_at += 1;
                if end.is_some_and(|end| self.follower.reader.offset() >= end) {
                    return Ok(None);
                }
                if self.looked_at % TURN == 0 {
                    tokio::task::yield_now().await;
                    if end.is_none() && first(pin!(&mut self.timer), pin!(ready(()))).await.is_none() {
                        end = Some(self.follower.reader.file_length()?);
                    }
                }
            }
            if end.is_some() || self.follower.is_at_end() {
                return Ok(None);
            }
            let changed = first(pin!(&mut self.timer), pin!(self.follower.changed())).await;
            match changed {
                Some(changed) => changed?,
                None => end = Some(self.follower.reader.file_length()?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn without_inotify_it_looks_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link0.pcap");
        let header = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01\0\0\0";
        std::fs::write(&path, header).unwrap();
        let mut follower = Capture::open(&path).unwrap().follow().unwrap();
        follower.changes = None;
        let write = async {
            // It has looked, and found nothing.
            tokio::task::yield_now().await;
            let mut file = OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(b"\x01\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0x")
                .unwrap();
        };
        let (packet, ()) = tokio::join!(timeout(Duration::from_secs(20), follower.next_packet()), write);
        assert_eq!(packet.unwrap().unwrap().unwrap().frame().bytes(), b"x");
    }
}
