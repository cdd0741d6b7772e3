// SPDX-License-Identifier: GPL-3.0-or-later
//! The packets of a link: which are shown, and how many there were when.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use alpy_pcap::{Capture, Conversation, Frame, Packet, Reader};

use super::chatter::{Folded, LastFrames, TELLING, Telling, folded_line};
use super::owners::{Owners, Sources};
use super::rates::{Rates, rates};
use super::record::{Link, Mark, Record};
use super::traffic::Traffic;

/// How many packets are shown of the first and the last, and of those before and after a mark.
pub(super) const ENDS: usize = 200;
pub(super) const BEFORE_MARK: usize = 5;
pub(super) const AFTER_MARK: usize = 20;

/// Around how many marks.
pub(super) const MARKS: usize = 20;

/// Of how many packets it is told who spoke with whom.
const CONVERSATIONS_OF: u64 = 100_000;

/// How many conversations are listed.
const CONVERSATIONS: usize = 50;

/// What a link's capture says.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) frames: u64,
    /// Of frames on the wire.
    pub(super) bytes: u64,
    /// How many came from each end. There are more frames where it is not known of some.
    pub(super) from: [u64; 2],
    pub(super) ladder: Vec<Rung>,
    /// When each frame was there, in seconds since the run began, and no earlier than the one before.
    pub(super) times: Vec<f64>,
    /// The first and the last ones, and those around a mark of any link, by their numbers.
    pub(super) lines: Vec<Line>,
    /// There was too little time to read all of it.
    pub(super) is_partial: bool,
    /// It was read to its end, and nothing is missing there.
    pub(super) is_whole: bool,
    /// What was asked and answered.
    pub(super) traffic: Traffic,
    /// The last frames that are no housekeeping, and the housekeeping after them.
    pub(super) last_frames: (Vec<Telling>, Folded),
    pub(super) rates: Option<Rates>,
    pub(super) conversations: Vec<Conversation>,
    /// How many more conversations there are.
    pub(super) more_conversations: usize,
    /// What is to be known about it, such as that not all of it was read.
    pub(super) notes: Vec<String>,
}

/// A frame that was among the last of its link, or a note about those that are not shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Last {
    Frame {
        at: f64,
        from: Option<usize>,
        text: String,
    },
    Note(String),
}

impl Summary {
    /// What was last on the link: [`TELLING`] frames and no housekeeping, unless there was nothing else.
    pub(super) fn last(&self) -> Vec<Last> {
        let (frames, after) = &self.last_frames;
        let mut all = Vec::new();
        if frames.is_empty() {
            let from = self.lines.len().saturating_sub(TELLING);
            all.extend(self.lines[from..].iter().map(|line| Last::Frame {
                at: line.at,
                from: line.from,
                text: line.text.clone(),
            }));
            return all;
        }
        for frame in frames {
            all.extend(folded_line(&frame.before).map(Last::Note));
            let mut text = one_line(frame.frame.clone());
            if frame.times > 1 {
                text.push_str(&format!(
                    " ({} times, the last at {:.3})",
                    frame.times, frame.last
                ));
            }
            all.push(Last::Frame {
                at: frame.at,
                from: frame.from,
                text,
            });
        }
        all.extend(folded_line(after).map(Last::Note));
        all
    }
}

/// A packet in a line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// Which one of its link, from 0.
    pub(super) number: u64,
    /// In seconds since the run began.
    pub(super) at: f64,
    /// From which end, if that is known.
    pub(super) from: Option<usize>,
    pub(super) text: String,
}

/// A line of a ladder.
#[derive(Debug, PartialEq)]
pub(super) enum Rung {
    Packet(Line),
    Mark {
        at: f64,
        name: String,
    },
    /// Packets that are not shown.
    More(u64),
}

/// A packet that may be shown.
struct Kept {
    number: u64,
    at: f64,
    frame: Frame<'static>,
}

/// Reads a capture, for as long as there is time.
pub(super) fn summary(dir: &Path, record: &Record, link: &Link, owners: &Owners, until: Instant) -> Summary {
    let mut summary = Summary::default();
    let path = dir.join(&link.capture);
    if super::source::open(&path).is_err() {
        return summary;
    }
    let ahead = link.clock_ahead.unwrap_or(0.0);
    let on_clock = |timestamp: Duration| timestamp.as_secs_f64() + ahead - record.began;
    if let Err(error) = read(&mut summary, &path, record, link, owners, until, on_clock) {
        summary
            .notes
            .push(format!("The capture cannot be read to its end: {error}"));
    }
    if link.clock_ahead.is_none() && summary.frames > 0 {
        summary
            .notes
            .push("The times are those of the guest's clock: the run has not compared them.".to_owned());
    }
    summary
}

fn read(
    summary: &mut Summary,
    path: &Path,
    record: &Record,
    link: &Link,
    owners: &Owners,
    until: Instant,
    on_clock: impl Fn(Duration) -> f64,
) -> Result<(), alpy_pcap::Error> {
    let mut reader = Reader::open(path)?;
    let mut sources = Sources::new(owners, link);
    let mut marks: VecDeque<_> = link.marks.iter().take(MARKS).collect();
    let mut moments: VecDeque<_> = moments(record, link).into();
    let (mut kept, mut last) = (Vec::new(), VecDeque::new());
    let mut keep_until = ENDS as u64;
    let mut points = Vec::new();
    let mut last_frames = LastFrames::default();
    let first_is_node = link.ends.first().is_some_and(|end| end.node.is_some());
    let mut seen_marks = Vec::new();
    loop {
        let frame = match reader.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                summary.is_whole = true;
                break;
            }
            Err(error) if error.is_torn() => {
                summary
                    .notes
                    .push("The capture ends in the middle of a frame.".to_owned());
                break;
            }
            Err(error) => {
                let text = format!("The capture is damaged: {error}");
                summary.notes.push(text);
                break;
            }
        };
        let (number, at) = (summary.frames, on_clock(frame.timestamp()));
        summary.frames += 1;
        summary.bytes += u64::from(frame.original_len());
        let from = sources.end(&frame);
        if let Some(end) = from.and_then(|end| summary.from.get_mut(end)) {
            *end += 1;
        }
        points.push((at, frame.original_len()));
        summary
            .times
            .push(summary.times.last().map_or(at, |last| at.max(*last)));
        while let Some(mark) = marks.front().filter(|mark| mark.made - record.began <= at) {
            seen_marks.push((number, *mark));
            marks.pop_front();
        }
        while moments.front().is_some_and(|moment| *moment <= at) {
            let before = last.len().saturating_sub(BEFORE_MARK);
            kept.extend(last.drain(before..));
            keep_until = keep_until.max(number + AFTER_MARK as u64);
            moments.pop_front();
        }
        // Only a failure speaks of it, and it takes most of the time.
        if record.failure.is_some() {
            let decoded = Packet::decode(frame.clone());
            summary.traffic.add(&decoded);
            last_frames.push(at, &decoded, from, first_is_node);
        }
        let packet = Kept {
            number,
            at,
            frame: frame.into_owned(),
        };
        if number < keep_until {
            kept.push(packet);
        } else {
            if last.len() == ENDS {
                last.pop_front();
            }
            last.push_back(packet);
        }
        if number % 1024 == 1023 && Instant::now() >= until {
            summary.is_partial = true;
            summary.notes.push(format!(
                "Not all was read, for it takes too long: this is about the first {} frames.",
                summary.frames
            ));
            break;
        }
    }
    summary.last_frames = last_frames.finish();
    seen_marks.extend(marks.into_iter().map(|mark| (summary.frames, mark)));
    kept.extend(last);
    kept.sort_by_key(|packet| packet.number);
    let line = |packet: Kept| Line {
        number: packet.number,
        at: packet.at,
        from: sources.end(&packet.frame),
        text: one_line(packet.frame),
    };
    summary.lines = kept.into_iter().map(line).collect();
    summary.ladder = ladder(summary, &seen_marks, record.began);
    summary.rates = rates(&points);
    if summary.frames <= CONVERSATIONS_OF && Instant::now() < until {
        let mut all = Capture::open(path)?.ignore_torn_tail().conversations()?;
        summary.more_conversations = all.len().saturating_sub(CONVERSATIONS);
        all.truncate(CONVERSATIONS);
        summary.conversations = all;
    } else {
        summary.notes.push(
            "There are too many frames, or there was too little time, to say who spoke with whom.".to_owned(),
        );
    }
    Ok(())
}

/// Around which moments packets are kept: its own marks, and the first ones of all links. In seconds since the run began, one after the other.
fn moments(record: &Record, link: &Link) -> Vec<f64> {
    let own = link.marks.iter().take(MARKS);
    let all = super::sequence::marks(record).into_iter().map(|(_, mark)| mark);
    let mut moments: Vec<_> = own.chain(all).map(|mark| mark.made - record.began).collect();
    moments.sort_by(f64::total_cmp);
    moments
}

/// The lines that are about a link alone: its first and last packets, and those around its own marks, of which it is known before which packet they were
/// made.
fn ladder(summary: &Summary, marks: &[(u64, &Mark)], began: f64) -> Vec<Rung> {
    let is_near = |number: u64| {
        let near =
            |at: u64| (at.saturating_sub(BEFORE_MARK as u64)..at + AFTER_MARK as u64).contains(&number);
        number < ENDS as u64
            || number + ENDS as u64 >= summary.frames
            || marks.iter().any(|(at, _)| near(*at))
    };
    let mark = |mark: &Mark| Rung::Mark {
        at: mark.made - began,
        name: mark.name.clone(),
    };
    let mut marks = marks.iter().peekable();
    let mut ladder = Vec::new();
    let mut next = 0;
    for line in summary.lines.iter().filter(|line| is_near(line.number)) {
        if line.number > next {
            ladder.push(Rung::More(line.number - next));
        }
        next = line.number + 1;
        while let Some((_, of)) = marks.next_if(|(number, _)| *number <= line.number) {
            ladder.push(mark(of));
        }
        ladder.push(Rung::Packet(line.clone()));
    }
    if summary.frames > next {
        ladder.push(Rung::More(summary.frames - next));
    }
    ladder.extend(marks.map(|(_, of)| mark(of)));
    ladder
}

/// A packet in one line, without its time.
fn one_line(frame: Frame<'static>) -> String {
    Packet::decode(frame).summary().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use alpy_pcap::Writer;

    use super::*;
    use crate::report::rates::SHORTEST;
    use crate::report::record::End;

    const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const NIC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
    const ELSE: [u8; 6] = [2, 0, 0, 0, 0, 9];

    /// An empty UDP datagram.
    fn datagram(from: [u8; 6], source: [u8; 4]) -> Vec<u8> {
        let mut bytes = [&[0xff; 6], &from[..], &[8, 0]].concat();
        bytes.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        bytes.extend(source);
        bytes.extend([192, 168, 0, 2, 0, 7, 0, 9, 0, 8, 0, 0]);
        bytes
    }

    fn capture(dir: &Path, frames: &[(f64, Vec<u8>)]) {
        let mut writer = Writer::new(File::create(dir.join("link0.pcap")).unwrap()).unwrap();
        for (at, bytes) in frames {
            writer
                .write(&Frame::new(Duration::from_secs_f64(*at), bytes))
                .unwrap();
        }
    }

    fn record(marks: Vec<Mark>) -> Record {
        let node = End {
            node: Some(0),
            addresses: vec!["192.168.0.1/24".to_owned()],
            ..End::default()
        };
        let machine = End {
            machine: Some(0),
            mac: Some("52:54:00:12:34:56".to_owned()),
            ..End::default()
        };
        Record {
            began: 1000.0,
            links: vec![Link {
                capture: "link0.pcap".to_owned(),
                ends: vec![node, machine],
                clock_ahead: Some(-2.0),
                marks,
                ..Link::default()
            }],
            ..Record::default()
        }
    }

    fn of(dir: &Path, record: &Record) -> Summary {
        let owners = Owners::learn(dir, record);
        let until = Instant::now() + Duration::from_secs(60);
        summary(dir, record, &record.links[0], &owners, until)
    }

    #[test]
    fn tells_from_which_end_a_frame_came_and_when() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let frames = [
            (1003.0, datagram(NODE, [192, 168, 0, 1])),
            (1003.5, datagram(NIC, [192, 168, 0, 2])),
            // One that the machine passes on.
            (1004.0, datagram(ELSE, [10, 0, 0, 1])),
        ];
        capture(dir, &frames);
        let summary = of(dir, &record(Vec::new()));
        let rungs: Vec<_> = summary
            .ladder
            .iter()
            .map(|rung| match rung {
                Rung::Packet(line) => (line.at, line.from, line.text.as_str()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            rungs,
            [
                (1.0, Some(0), "IP 192.168.0.1.7 > 192.168.0.2.9: UDP, length 0"),
                (1.5, Some(1), "IP 192.168.0.2.7 > 192.168.0.2.9: UDP, length 0"),
                (2.0, Some(1), "IP 10.0.0.1.7 > 192.168.0.2.9: UDP, length 0"),
            ]
        );
        assert_eq!((summary.frames, summary.bytes, summary.from), (3, 3 * 42, [1, 2]));
        let rates = summary.rates.unwrap();
        assert_eq!((rates.begin, rates.interval), (1.0, SHORTEST));
        assert_eq!(rates.rates.iter().sum::<f64>() * SHORTEST, 3.0 * 42.0 * 8.0);
        assert!(summary.notes.is_empty(), "{:?}", summary.notes);
        assert_eq!(summary.conversations.len(), 3);
    }

    #[test]
    fn knows_a_node_without_an_address_by_being_on_no_other_link() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        capture(dir, &[(1003.0, datagram(NODE, [0, 0, 0, 0]))]);
        let mut record = record(Vec::new());
        record.links[0].ends[0].addresses.clear();
        assert_eq!(of(dir, &record).from, [1, 0]);
        // Passed on from another link, it says nothing.
        record.links.push(Link {
            capture: "link0.pcap".to_owned(),
            ..Link::default()
        });
        assert_eq!(of(dir, &record).from, [0, 0]);
    }

    #[test]
    fn shows_the_first_the_last_and_those_around_a_mark() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let frames: Vec<_> = (0..2000)
            .map(|number| {
                (
                    1003.0 + f64::from(number) / 100.0,
                    datagram(NODE, [192, 168, 0, 1]),
                )
            })
            .collect();
        capture(dir, &frames);
        // At frame 1000, as the run's clock has it.
        let mark = Mark {
            name: "failover".to_owned(),
            made: 1011.0,
        };
        let late = Mark {
            name: "behind all".to_owned(),
            made: 2000.0,
        };
        // At frame 1900, among the last ones.
        let near = Mark {
            name: "near the end".to_owned(),
            made: 1020.0,
        };
        let summary = of(dir, &record(vec![mark, near, late]));
        let times = summary.ladder.iter().filter_map(|rung| match rung {
            Rung::Packet(line) => Some(line.at),
            _ => None,
        });
        assert!(times.is_sorted(), "{:?}", summary.ladder);
        let mut parts = Vec::new();
        for rung in &summary.ladder {
            match (rung, parts.last_mut()) {
                (Rung::Packet(_), Some((_, count))) => *count += 1,
                (other, _) => parts.push((format!("{other:?}"), 0)),
            }
        }
        // The first 200 come before any other part.
        let counts: Vec<_> = parts.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [199, 5, 20, 100, 100, 0], "{parts:?}");
        assert_eq!(parts[1].0, "More(795)");
        assert!(parts[2].0.contains("failover"), "{parts:?}");
        assert_eq!(parts[3].0, "More(780)");
        assert!(parts[5].0.contains("behind all"), "{parts:?}");
    }

    #[test]
    fn stops_when_its_time_is_over_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let frames = vec![(1003.0, datagram(NODE, [192, 168, 0, 1])); 5000];
        capture(dir, &frames);
        let record = record(Vec::new());
        let owners = Owners::learn(dir, &record);
        let summary = summary(dir, &record, &record.links[0], &owners, Instant::now());
        assert_eq!(summary.frames, 1024);
        assert!(
            summary.notes[0].contains("first 1024 frames"),
            "{:?}",
            summary.notes
        );
    }

    #[test]
    fn a_capture_that_is_torn_or_none_is_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let record = record(Vec::new());
        assert_eq!(of(dir, &record).frames, 0);
        std::fs::write(dir.join("link0.pcap"), "no capture").unwrap();
        assert!(of(dir, &record).notes[0].contains("cannot be read"));
        capture(dir, &[(1003.0, datagram(NODE, [192, 168, 0, 1]))]);
        let whole = std::fs::read(dir.join("link0.pcap")).unwrap();
        std::fs::write(dir.join("link0.pcap"), [&whole[..], &whole[24..60]].concat()).unwrap();
        let summary = of(dir, &record);
        assert_eq!(summary.frames, 1);
        assert!(
            summary.notes[0].contains("ends in the middle"),
            "{:?}",
            summary.notes
        );
    }
}
