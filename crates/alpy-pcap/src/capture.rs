// SPDX-License-Identifier: GPL-3.0-or-later
//! A capture file and the questions to it.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::format::FILE_HEADER_LEN;
use crate::{Error, Frame, Packet, Reader};

/// A capture file, or a part of one between [marks](Mark).
///
/// Each method reads the file from its beginning, so a file that has grown since gives the longer answer. All of them block the
/// thread while they read; in a release build that is some ten million frames a second.
///
/// ```no_run
/// use std::net::Ipv4Addr;
///
/// use alpy_pcap::Capture;
///
/// // How many connections did clients open to the backend?
/// let backend = Ipv4Addr::new(192, 168, 1, 11);
/// let opened = Capture::open("link1.pcap")?.count(|packet| {
///     packet.ip().is_some_and(|ip| ip.destination == backend)
///         && packet.tcp().is_some_and(|tcp| tcp.destination_port == 80 && tcp.flags.syn() && !tcp.flags.ack())
/// })?;
///
/// // How many bits a second did a flow have on the wire?
/// let flow = Capture::open("link1.pcap")?.filter(|packet| packet.tcp().is_some_and(|tcp| tcp.destination_port == 5201))?;
/// let bytes: u64 = flow.iter().map(|packet| u64::from(packet.frame().original_len())).sum();
/// let seconds = match &flow[..] {
///     [first, .., last] => last.frame().timestamp().saturating_sub(first.frame().timestamp()).as_secs_f64(),
///     _ => 0.0,
/// };
/// # Ok::<_, alpy_pcap::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Capture {
    path: PathBuf,
    ignore_torn_tail: bool,
    /// Where its first record begins, in bytes from the beginning of the file.
    from: u64,
    /// Where the record after its last one begins; none if it goes on to the end of the file.
    until: Option<u64>,
    known: Arc<Known>,
    #[cfg(feature = "live")]
    pub(crate) clock: crate::timer::Clock,
    #[cfg(feature = "live")]
    pub(crate) clock_start: Option<SystemTime>,
}

/// What all clones and parts of a capture know of its file.
#[derive(Debug)]
struct Known {
    /// Where a record begins, the further the better: all that has been read for a mark.
    offset: AtomicU64,
    marks: Mutex<Vec<Mark>>,
}

/// A place in a capture, between two records; made by [`Capture::mark`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    name: String,
    path: PathBuf,
    offset: u64,
    made: SystemTime,
}

impl Mark {
    /// What it was called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it was made.
    pub fn made(&self) -> SystemTime {
        self.made
    }
}

impl Capture {
    /// A capture file, after a look at its header.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        Reader::open(&path)?;
        let start = FILE_HEADER_LEN as u64;
        Ok(Self {
            path,
            ignore_torn_tail: false,
            from: start,
            until: None,
            known: Arc::new(Known {
                offset: AtomicU64::new(start),
                marks: Mutex::default(),
            }),
            #[cfg(feature = "live")]
            clock: crate::timer::Clock::default(),
            #[cfg(feature = "live")]
            clock_start: None,
        })
    }

    /// Takes a record that the file ends within for the end of the capture, instead of for an error.
    ///
    /// For captures that are still being written, and those whose writer was killed or ran out of space.
    #[must_use]
    pub fn ignore_torn_tail(mut self) -> Self {
        self.ignore_torn_tail = true;
        self
    }

    /// Marks the end of the file as it is now: a record of which a part alone is there lies behind the mark.
    ///
    /// ```no_run
    /// # let capture = alpy_pcap::Capture::open("link1.pcap")?;
    /// let failover = capture.mark("failover")?;
    /// // Then something happens.
    /// let before = capture.until(&failover)?.count(|packet| packet.tcp().is_some())?;
    /// let after = capture.since(&failover)?.count(|packet| packet.tcp().is_some())?;
    /// # Ok::<_, alpy_pcap::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::open`] and [`Reader::next_frame`], but for [`Error::Torn`].
    pub fn mark(&self, name: impl Into<String>) -> Result<Mark, Error> {
        let mut reader = Reader::open(&self.path)?;
        let made = SystemTime::now();
        reader.skip_to(self.known.offset.load(Ordering::Relaxed))?;
        loop {
            match reader.next_frame() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) if error.is_torn() => break,
                Err(error) => return Err(error),
            }
        }
        self.known.offset.fetch_max(reader.offset(), Ordering::Relaxed);
        let mark = Mark {
            name: name.into(),
            path: self.path.clone(),
            offset: reader.offset(),
            made,
        };
        self.lock_marks().push(mark.clone());
        Ok(mark)
    }

    /// All marks that were made in this capture, its clones and its parts, in their order.
    pub fn marks(&self) -> Vec<Mark> {
        self.lock_marks().clone()
    }

    fn lock_marks(&self) -> MutexGuard<'_, Vec<Mark>> {
        self.known.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of this capture from a mark on.
    ///
    /// # Errors
    /// [`Error::ForeignMark`] if the mark is of another file.
    pub fn since(&self, mark: &Mark) -> Result<Self, Error> {
        let from = self.offset_of(mark)?;
        Ok(Self {
            from: self.from.max(from),
            ..self.clone()
        })
    }

    /// The part of this capture up to a mark.
    ///
    /// # Errors
    /// [`Error::ForeignMark`] if the mark is of another file.
    pub fn until(&self, mark: &Mark) -> Result<Self, Error> {
        let until = self.offset_of(mark)?;
        Ok(Self {
            until: Some(self.until.unwrap_or(u64::MAX).min(until)),
            ..self.clone()
        })
    }

    fn offset_of(&self, mark: &Mark) -> Result<u64, Error> {
        if mark.path != self.path {
            return Err(Error::ForeignMark {
                origin: self.path.display().to_string(),
                mark: mark.name.clone(),
                of: mark.path.display().to_string(),
            });
        }
        Ok(mark.offset)
    }

    /// The capture of the whole file.
    #[cfg(feature = "live")]
    pub(crate) fn whole(&self) -> Self {
        Self {
            from: FILE_HEADER_LEN as u64,
            until: None,
            ..self.clone()
        }
    }

    /// A reader at its first record.
    pub(crate) fn reader(&self) -> Result<Reader<File>, Error> {
        let mut reader = Reader::open(&self.path)?;
        reader.skip_to(self.from)?;
        Ok(reader)
    }

    /// Whether this is where it ends, for all that is written to the file later.
    pub(crate) fn ends_at(&self, offset: u64) -> bool {
        self.until.is_some_and(|until| offset >= until)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All packets, one after another.
    ///
    /// Each packet is copied out of the file; the other methods spare that.
    ///
    /// # Errors
    /// As [`Reader::open`]. The iterator's items fail as [`Reader::next_frame`] does, and such an item is the last one.
    pub fn packets(&self) -> Result<Packets, Error> {
        Ok(Packets {
            reader: Some(self.reader()?),
            capture: self.clone(),
        })
    }

    /// How many packets `predicate` holds for.
    ///
    /// # Errors
    /// As [`Reader::open`] and [`Reader::next_frame`].
    pub fn count(&self, mut predicate: impl FnMut(&Packet<'_>) -> bool) -> Result<usize, Error> {
        let mut count = 0;
        self.for_each(|packet| count += usize::from(predicate(packet)))?;
        Ok(count)
    }

    /// The first packet that `predicate` holds for. The file is not read further.
    ///
    /// # Errors
    /// As [`Reader::open`] and [`Reader::next_frame`].
    pub fn find(
        &self,
        mut predicate: impl FnMut(&Packet<'_>) -> bool,
    ) -> Result<Option<Packet<'static>>, Error> {
        let mut found = None;
        self.visit(|packet| {
            if predicate(&packet) {
                found = Some(packet.into_owned());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// The packets that `predicate` holds for.
    ///
    /// # Errors
    /// As [`Reader::open`] and [`Reader::next_frame`].
    pub fn filter(
        &self,
        mut predicate: impl FnMut(&Packet<'_>) -> bool,
    ) -> Result<Vec<Packet<'static>>, Error> {
        let mut packets = Vec::new();
        self.visit(|packet| {
            if predicate(&packet) {
                packets.push(packet.into_owned());
            }
            ControlFlow::Continue(())
        })?;
        Ok(packets)
    }

    /// The last packets, at most `count`, oldest first: what to show when a test fails.
    ///
    /// # Errors
    /// As [`Reader::open`] and [`Reader::next_frame`].
    pub fn last(&self, count: usize) -> Result<Vec<Packet<'static>>, Error> {
        let mut packets = VecDeque::new();
        self.visit(|packet| {
            packets.push_back(packet.into_owned());
            if packets.len() > count {
                packets.pop_front();
            }
            ControlFlow::Continue(())
        })?;
        Ok(packets.into())
    }

    /// Calls `body` with each packet.
    ///
    /// # Errors
    /// As [`Reader::open`] and [`Reader::next_frame`].
    pub fn for_each(&self, mut body: impl FnMut(&Packet<'_>)) -> Result<(), Error> {
        self.visit(|packet| {
            body(&packet);
            ControlFlow::Continue(())
        })
    }

    /// The next frame of a reader of this capture; none at its end.
    pub(crate) fn frame_of<'a>(&self, reader: &'a mut Reader<File>) -> Result<Option<Frame<'a>>, Error> {
        if self.ends_at(reader.offset()) {
            return Ok(None);
        }
        match reader.next_frame() {
            Err(error) if error.is_torn() && self.ignore_torn_tail => Ok(None),
            result => result,
        }
    }

    fn visit(&self, mut visitor: impl FnMut(Packet<'_>) -> ControlFlow<()>) -> Result<(), Error> {
        let mut reader = self.reader()?;
        while let Some(frame) = self.frame_of(&mut reader)? {
            if visitor(Packet::decode(frame)).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The packets of a [`Capture`], one after another; made by [`Capture::packets`].
#[derive(Debug)]
pub struct Packets {
    /// None after the end or an error.
    reader: Option<Reader<File>>,
    capture: Capture,
}

impl Iterator for Packets {
    type Item = Result<Packet<'static>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.reader.as_mut()?;
        match self.capture.frame_of(reader) {
            Ok(Some(frame)) => return Some(Ok(Packet::decode(frame.into_owned()))),
            Ok(None) => {}
            Err(error) => {
                self.reader = None;
                return Some(Err(error));
            }
        }
        self.reader = None;
        None
    }
}
