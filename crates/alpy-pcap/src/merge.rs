// SPDX-License-Identifier: GPL-3.0-or-later
//! Several captures in one file, as draft-ietf-opsawg-pcapng describes it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::{Capture, Error, Packets};

/// Several captures of the same time, to be written into one pcapng file, for Wireshark and tshark.
///
/// ```no_run
/// use std::time::SystemTime;
///
/// use alpy_pcap::{Capture, Merge};
///
/// let mut merge = Merge::new();
/// merge.link("lan", &Capture::open("link0.pcap")?)?;
/// merge.link("wan", &Capture::open("link1.pcap")?)?;
/// merge.note(SystemTime::now(), "the test ends");
/// merge.write("links.pcapng")?;
/// # Ok::<_, alpy_pcap::Error>(())
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct Merge {
    links: Vec<Link>,
    notes: Vec<(Duration, String)>,
    deadline: Option<Instant>,
}

#[derive(Debug)]
struct Link {
    name: String,
    capture: Capture,
    clock: usize,
    frames: u64,
    /// By how much the real time is ahead of its own, in nanoseconds, as its last packet says; none if it has none.
    ahead: Option<i128>,
}

/// A whole second, in nanoseconds.
const SECOND: i128 = 1_000_000_000;

/// How exactly two captures of one QEMU have to differ by a second, in nanoseconds, to have been opened on both sides of one.
const EXACT: i128 = 50_000_000;

/// The next packet of a link: its time, and which link, by which a heap has the earliest.
type Next = Reverse<(Duration, usize)>;

impl Merge {
    /// No captures yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the moment after which [`link`](Self::link) and [`write`](Self::write) give up. Default: never.
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// One more capture, of an interface that is called so. It is ended: its writer writes no more. Its marks become comments.
    ///
    /// All captures that are added by this word have to be of one QEMU, which began them when it started; for others there is
    /// [`link_with_clock`](Self::link_with_clock).
    ///
    /// # Errors
    /// As [`Reader::open`](crate::Reader::open) and [`Reader::next_frame`](crate::Reader::next_frame); [`Error::Late`].
    pub fn link(&mut self, name: impl Into<String>, capture: &Capture) -> Result<(), Error> {
        self.link_with_clock(0, name, capture)
    }

    /// As [`link`](Self::link), with a number for the clock that its times are of: captures that one QEMU began when it started have the same.
    ///
    /// QEMU stamps frames with the guest's clock, which starts from a whole second and stands still while the machine is stopped; one that
    /// was begun later is ahead by the time until then. Each file says when its last frame was written, and so what the real time was. The
    /// least of these differences is taken for all captures with the same clock: so their order is the one in which frames passed, and the
    /// real time is right to some milliseconds. (Of a guest that was stopped in between, frames before that had another difference.)
    ///
    /// # Errors
    /// As [`link`](Self::link).
    pub fn link_with_clock(
        &mut self,
        clock: usize,
        name: impl Into<String>,
        capture: &Capture,
    ) -> Result<(), Error> {
        let (mut last, mut frames) = (None, 0);
        let mut reader = capture.reader()?;
        while let Some(frame) = capture.frame_of(&mut reader)? {
            last = Some(frame.timestamp());
            frames += 1;
            self.check(frames, capture.path())?;
        }
        let written = std::fs::metadata(capture.path()).and_then(|file| file.modified());
        let written = written.map_err(|source| Error::Open {
            origin: capture.path().display().to_string(),
            source,
        })?;
        let ahead = last.map(|last| nanoseconds(since_epoch(written)) - nanoseconds(last));
        let name = name.into();
        for mark in capture.marks() {
            self.note(mark.made(), format!("{name}: {}", mark.name()));
        }
        self.links.push(Link {
            name,
            capture: capture.clone(),
            clock,
            frames,
            ahead,
        });
        Ok(())
    }

    /// How many frames each capture has, in the order in which they were added: counted when they were.
    pub fn frames(&self) -> Vec<u64> {
        self.links.iter().map(|link| link.frames).collect()
    }

    /// Fails if the time is up. To look at the clock for each frame would take longer than to read it.
    fn check(&self, frames: u64, path: &Path) -> Result<(), Error> {
        const EACH: u64 = 1024;
        match self.deadline {
            Some(deadline) if frames % EACH == 0 && Instant::now() > deadline => Err(Error::Late {
                origin: path.display().to_string(),
                frames,
            }),
            _ => Ok(()),
        }
    }

    /// By how much the real time is ahead of that of each capture's packets, in nanoseconds, in the order in which they were added: as
    /// [`link_with_clock`](Self::link_with_clock) says.
    pub fn clocks(&self) -> Vec<i128> {
        let of_link = |link: &Link| {
            let same = self.links.iter().filter(|other| other.clock == link.clock);
            let least = same.filter_map(|link| link.ahead).min().unwrap_or(0);
            let more = link.ahead.unwrap_or(least) - least;
            // Their clocks begin with whole seconds, one a second later than another if that came just between. Any other difference is
            // of a clock that stood still at the last packet.
            if (more - SECOND).abs() < EXACT {
                least + SECOND
            } else {
                least
            }
        };
        self.links.iter().map(of_link).collect()
    }

    /// A comment at a moment: it is one of the first packet after that, or of the last one if there is none. Without any packet there is
    /// no comment.
    pub fn note(&mut self, moment: SystemTime, text: impl Into<String>) {
        self.notes.push((since_epoch(moment), text.into()));
    }

    /// Writes the file: all packets by their time, each with its interface.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Late`], and then the file has a part of the packets; as [`Reader::open`](crate::Reader::open) and [`Reader::next_frame`](crate::Reader::next_frame).
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let failed = |source| Error::Write {
            path: path.display().to_string(),
            source,
        };
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
        section(&mut file).map_err(failed)?;
        for link in &self.links {
            interface(&mut file, &link.name).map_err(failed)?;
        }

        let mut notes = self.notes.clone();
        notes.sort();
        let mut notes = notes.into_iter().peekable();
        let mut sources = Vec::new();
        let mut heads: BinaryHeap<Next> = BinaryHeap::new();
        let mut waiting = Vec::new();
        let clocks = self.clocks();
        for (index, link) in self.links.iter().enumerate() {
            let mut packets = link.capture.packets()?;
            waiting.push(advance(&mut packets, clocks[index], index, &mut heads)?);
            sources.push(packets);
        }
        let mut written = 0;
        while let Some(Reverse((time, index))) = heads.pop() {
            written += 1;
            self.check(written, path)?;
            let packet = waiting[index].take().expect("its time is in the heap");
            waiting[index] = advance(&mut sources[index], clocks[index], index, &mut heads)?;
            let mut comments = Vec::new();
            while let Some((_, text)) = notes.next_if(|(moment, _)| *moment <= time || heads.is_empty()) {
                comments.push(text);
            }
            let frame = packet.frame();
            let block = packet_block(
                &mut file,
                index,
                time,
                frame.bytes(),
                frame.original_len(),
                &comments,
            );
            block.map_err(failed)?;
        }
        file.flush().map_err(failed)
    }
}

/// Takes the next packet of a link, and puts its time into the heap.
fn advance(
    packets: &mut Packets,
    ahead: i128,
    index: usize,
    heads: &mut BinaryHeap<Next>,
) -> Result<Option<crate::Packet<'static>>, Error> {
    let packet = packets.next().transpose()?;
    if let Some(packet) = &packet {
        let real = nanoseconds(packet.frame().timestamp()) + ahead;
        heads.push(Reverse((
            Duration::from_nanos(u64::try_from(real.max(0)).unwrap_or(u64::MAX)),
            index,
        )));
    }
    Ok(packet)
}

fn nanoseconds(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn section(file: &mut impl Write) -> io::Result<()> {
    let mut body = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
    body.extend([1, 0, 0, 0]);
    // The length of the section is not told.
    body.extend([0xff; 8]);
    let application = concat!("alpy-pcap ", env!("CARGO_PKG_VERSION"));
    option(&mut body, 4, application.as_bytes());
    end_of_options(&mut body);
    block(file, 0x0a0d_0d0a, &body)
}

/// An Ethernet interface whose times are in nanoseconds.
fn interface(file: &mut impl Write, name: &str) -> io::Result<()> {
    let mut body = vec![1, 0, 0, 0];
    body.extend(262_144_u32.to_le_bytes());
    option(&mut body, 2, name.as_bytes());
    option(&mut body, 9, &[9]);
    end_of_options(&mut body);
    block(file, 1, &body)
}

fn packet_block(
    file: &mut impl Write,
    interface: usize,
    time: Duration,
    bytes: &[u8],
    original_len: u32,
    comments: &[String],
) -> io::Result<()> {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let fields = [
        interface as u32,
        (nanoseconds >> 32) as u32,
        nanoseconds as u32,
        bytes.len() as u32,
        original_len,
    ];
    let mut body = fields.map(u32::to_le_bytes).concat();
    body.extend(bytes);
    pad(&mut body);
    for comment in comments {
        option(&mut body, 1, comment.as_bytes());
    }
    if !comments.is_empty() {
        end_of_options(&mut body);
    }
    block(file, 6, &body)
}

/// The value of an option has a length of 16 bits: of a longer one, as much as fits.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

fn block(file: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    file.write_all(&kind.to_le_bytes())?;
    file.write_all(&length)?;
    file.write_all(body)?;
    file.write_all(&length)
}
