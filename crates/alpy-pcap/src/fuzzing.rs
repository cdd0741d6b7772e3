// SPDX-License-Identifier: GPL-3.0-or-later
//! What holds of the reader and the decoder whatever comes: one oracle for the fuzzer and for the property tests below.

use std::cell::RefCell;
use std::io::{self, Read};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use crate::format::{FILE_HEADER_LEN, MAX_CAPTURED_LEN, RECORD_HEADER_LEN};
use crate::{Error, Frame, Packet, Reader};

/// What one read of a file that grows gives.
#[derive(Clone, Copy, Debug)]
pub enum Delivery {
    /// So many bytes at most; none is the end of the file as it is then.
    Bytes(usize),
    /// A signal comes first.
    Interruption,
    /// The read fails.
    Failure,
}

/// How reading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// This is no capture.
    Foreign,
    /// With the last frame.
    Whole,
    /// Within the file header, a record header, or a record.
    Torn,
    /// At a record that cannot be one.
    Damaged,
}

/// Reads a capture at once, compares every frame with what a plain reading of the bytes gives, and looks at every layer.
pub fn reader(bytes: &[u8]) -> End {
    let plain = plain(bytes);
    let mut reader = match Reader::new(bytes, "bytes") {
        Ok(reader) => reader,
        Err(error) => {
            let end = end_of(&error);
            assert_eq!((end, plain.place), (plain.end, 0), "{error}");
            return end;
        }
    };
    for (place, expected) in &plain.frames {
        assert_eq!(reader.offset(), place.start as u64);
        let frame = reader.next_frame().expect("a record is there");
        let frame = frame.expect("a record is there");
        assert_eq!(frame, *expected);
        packet(frame);
    }
    assert_eq!(reader.offset(), plain.place as u64);
    // However often it is asked.
    for _ in 0..2 {
        let end = match reader.next_frame() {
            Ok(Some(frame)) => panic!("one frame too many: {frame:?}"),
            Ok(None) => End::Whole,
            Err(error) => {
                assert_place(&error, plain.place, bytes.len());
                end_of(&error)
            }
        };
        assert_eq!(end, plain.end);
    }
    plain.end
}

/// Follows a capture that grows by these deliveries and then by the rest. Each frame is there with its last byte, and none is
/// lost, doubled or changed, whatever the ends and errors in between.
pub fn follower(bytes: &[u8], deliveries: &[Delivery]) {
    let plain = plain(bytes);
    let given = Rc::new(RefCell::new(0));
    let mut source = Growing {
        bytes,
        deliveries,
        given: Rc::clone(&given),
    };
    let mut reader = loop {
        // A file whose header is not there yet is opened again later, from its beginning.
        *given.borrow_mut() = 0;
        match Reader::new(&mut source, "growing") {
            Ok(reader) => break reader,
            Err(error @ (Error::Torn { .. } | Error::Read { .. })) => {
                let have = *given.borrow();
                assert!(have < FILE_HEADER_LEN, "{error} after {have} bytes");
                if error.is_torn() {
                    assert_place(&error, 0, have);
                    if have == bytes.len() {
                        assert_eq!((plain.end, plain.place), (End::Torn, 0));
                        return;
                    }
                }
            }
            Err(error) => {
                assert_eq!(end_of(&error), plain.end, "{error}");
                return;
            }
        }
    };
    let mut frames = plain.frames.iter();
    let mut next = frames.next();
    loop {
        let place = next.map_or(plain.place, |(place, _)| place.start);
        assert_eq!(reader.offset(), place as u64);
        let result = reader.next_frame();
        let have = *given.borrow();
        let is_there = next.filter(|(place, _)| place.end <= have);
        match result {
            Ok(Some(frame)) => {
                assert_eq!(&frame, &is_there.expect("only what is there is given").1);
                next = frames.next();
                continue;
            }
            // It may be there; the next call gives it, unless that fails too.
            Err(Error::Read { offset, .. }) => {
                assert_eq!(offset, have as u64);
                continue;
            }
            Ok(None) => assert_eq!(have, place, "the end only where a record ends"),
            Err(error) => {
                assert_place(&error, place, have);
                if let Error::Damaged { .. } = error {
                    assert_eq!(next, None, "{error}");
                    assert_eq!(plain.end, End::Damaged, "{error}");
                    return;
                }
            }
        }
        assert_eq!(
            is_there, None,
            "a frame is given as soon as it is there: {have} bytes"
        );
        if have == bytes.len() {
            assert_eq!(next, None);
            assert_ne!(plain.end, End::Damaged);
            return;
        }
    }
}

/// Decodes a frame and asks for every layer: what was seen at first is still so when it is asked for, and every layer lies
/// within the one below.
pub fn packet(frame: Frame<'_>) {
    let packet = Packet::decode(frame);
    let line = packet.to_string();
    assert!(!line.contains(|c: char| c.is_control()), "{line:?}");

    let bytes = packet.frame().bytes();
    let place = |part: &[u8]| {
        let start = part.as_ptr().addr() - bytes.as_ptr().addr();
        start..start + part.len()
    };
    let payload = place(packet.payload());
    assert!(payload.end <= bytes.len());
    assert_eq!(packet.ethernet().is_some(), bytes.len() >= 14);
    let tags = packet.vlans().count();
    let behind_the_tags = 14 + 4 * tags;
    assert!(tags == 0 || behind_the_tags <= bytes.len());
    for tag in packet.vlans() {
        assert!([0x8100, 0x88a8, 0x9100].contains(&tag.tpid), "{tag:?}");
        assert!(tag.priority < 8 && tag.id < 4096, "{tag:?}");
    }

    let ip = packet.ip();
    assert!(ip.is_none() || packet.arp().is_none());
    if packet.arp().is_some() {
        assert!(packet.payload().is_empty(), "what follows is padding");
        assert!(behind_the_tags + 28 <= bytes.len());
    }
    let segment = place(packet.segment());
    if let Some(ip) = ip {
        assert!(ip.dscp < 64 && ip.ecn < 4, "{ip:?}");
        let header = if ip.source.is_ipv4() { 20 } else { 40 };
        assert!(behind_the_tags + header <= segment.start, "{segment:?}");
        assert!(segment.end <= bytes.len() && segment.start <= payload.start && payload.end <= segment.end);
    }
    let transports = [
        packet.tcp().map(|tcp| (20, tcp.payload)),
        packet.udp().map(|udp| (8, udp.payload)),
        packet.icmp().map(|icmp| (8, icmp.payload)),
    ];
    let mut transports = transports.into_iter().flatten();
    if let Some((header, data)) = transports.next() {
        let ip = ip.expect("a transport header is behind one of IP");
        assert!(ip.fragment.is_none_or(|fragment| fragment.offset == 0), "{ip:?}");
        assert_eq!(data, packet.payload());
        assert!(segment.start + header <= payload.start);
    }
    assert!(
        transports.next().is_none(),
        "there is one transport header at most"
    );

    let owned = packet.clone().into_owned();
    assert_eq!(owned, packet);
    assert_eq!(owned.to_string(), line);
    assert_eq!(owned.payload(), packet.payload());
}

/// What a plain reading of a capture gives.
struct Plain<'a> {
    frames: Vec<(Range<usize>, Frame<'a>)>,
    end: End,
    /// Where it ends.
    place: usize,
}

/// Reads a capture as the draft describes it, with nothing but offsets.
fn plain(bytes: &[u8]) -> Plain<'_> {
    let mut frames = Vec::new();
    let stopped = |frames, end, place| Plain { frames, end, place };
    let magics = [0xa1b2_c3d4_u32, 0xa1b2_3c4d];
    let layouts = magics.map(|magic| [(false, magic.to_le_bytes()), (true, magic.to_be_bytes())]);
    let beginning = &bytes[..bytes.len().min(4)];
    let mut layouts = layouts.into_iter().flatten();
    let Some((big_endian, magic)) = layouts.find(|(_, magic)| magic.starts_with(beginning)) else {
        return stopped(frames, End::Foreign, 0);
    };
    if bytes.len() < FILE_HEADER_LEN {
        return stopped(frames, End::Torn, 0);
    }
    let number = |at: usize, length: usize| {
        let bytes = &bytes[at..at + length];
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if big_endian {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        }
    };
    let field = |at: usize| number(at, 4) as u32;
    if (number(4, 2), number(6, 2), field(20)) != (2, 4, 1) {
        return stopped(frames, End::Foreign, 0);
    }
    let in_nanoseconds = [magics[1].to_le_bytes(), magics[1].to_be_bytes()].contains(&magic);
    let unit = if in_nanoseconds { 1 } else { 1000 };
    let mut at = FILE_HEADER_LEN;
    loop {
        if at == bytes.len() {
            return stopped(frames, End::Whole, at);
        }
        let start = at + RECORD_HEADER_LEN;
        if start > bytes.len() {
            return stopped(frames, End::Torn, at);
        }
        let [seconds, fraction, captured, original] = [0, 4, 8, 12].map(|field_at| field(at + field_at));
        let nanoseconds = u64::from(fraction) * unit;
        if captured > MAX_CAPTURED_LEN || captured > original || nanoseconds >= 1_000_000_000 {
            return stopped(frames, End::Damaged, at);
        }
        let end = start + captured as usize;
        let Some(frame) = bytes.get(start..end) else {
            return stopped(frames, End::Torn, at);
        };
        let timestamp = Duration::from_secs(seconds.into()) + Duration::from_nanos(nanoseconds);
        frames.push((at..end, Frame::captured(timestamp, original, frame)));
        at = end;
    }
}

fn end_of(error: &Error) -> End {
    match error {
        Error::Foreign { .. } => End::Foreign,
        Error::Torn { .. } => End::Torn,
        Error::Damaged { .. } => End::Damaged,
        other => panic!("nothing else failed: {other}"),
    }
}

/// The error tells where, and of a torn part how much there is of how much.
fn assert_place(error: &Error, place: usize, have: usize) {
    match error {
        Error::Damaged { offset, .. } => assert_eq!(*offset, place as u64, "{error}"),
        Error::Torn {
            offset,
            have: part,
            need,
            ..
        } => {
            assert_eq!((*offset, *part), (place as u64, have - place), "{error}");
            assert!(part < need, "{error}");
        }
        _ => panic!("nothing failed: {error}"),
    }
}

/// A file that grows while it is read.
struct Growing<'a> {
    bytes: &'a [u8],
    deliveries: &'a [Delivery],
    given: Rc<RefCell<usize>>,
}

impl Read for Growing<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut given = self.given.borrow_mut();
        assert!(!room.is_empty(), "a read without room gives no end");
        let mut length = room.len().min(self.bytes.len() - *given);
        if let Some((delivery, later)) = self.deliveries.split_first() {
            self.deliveries = later;
            match delivery {
                Delivery::Bytes(most) => length = length.min(*most),
                Delivery::Interruption => return Err(io::ErrorKind::Interrupted.into()),
                Delivery::Failure => return Err(io::Error::other("this oracle's own failure")),
            }
        }
        room[..length].copy_from_slice(&self.bytes[*given..*given + length]);
        *given += length;
        Ok(length)
    }
}

#[cfg(test)]
#[path = "../tests/captures/build.rs"]
mod build;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;
    use proptest::test_runner::{RngSeed, TestRunner};

    use super::build::{File, Layout, file_of, zoo};
    use super::*;

    /// The same cases in each run; the fuzzer is there to find others.
    fn cases(cases: u32) -> ProptestConfig {
        ProptestConfig {
            cases,
            failure_persistence: None,
            rng_seed: RngSeed::Fixed(0x5eed),
            ..ProptestConfig::default()
        }
    }

    #[derive(Clone, Debug)]
    enum Edit {
        Flip(Index, u32),
        Set(Index, u8),
        Cut(Index, usize),
        Repeat(Index, usize),
    }

    fn edits() -> impl Strategy<Value = Vec<Edit>> {
        let edit = prop_oneof![
            2 => (any::<Index>(), 0..8_u32).prop_map(|(at, bit)| Edit::Flip(at, bit)),
            1 => (any::<Index>(), prop::sample::select(&[0, 1, 0x7f, 0x80, 0xff][..]))
                .prop_map(|(at, byte)| Edit::Set(at, byte)),
            1 => (any::<Index>(), 0..20_usize).prop_map(|(at, length)| Edit::Cut(at, length)),
            1 => (any::<Index>(), 0..40_usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
        ];
        vec(edit, 0..7)
    }

    fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
        for edit in edits {
            let length = bytes.len();
            if length == 0 {
                break;
            }
            let part = |at: &Index, most: usize| at.index(length)..(at.index(length) + most).min(length);
            match edit {
                Edit::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
                Edit::Set(at, byte) => bytes[at.index(length)] = *byte,
                Edit::Cut(at, most) => drop(bytes.drain(part(at, *most))),
                Edit::Repeat(at, most) => bytes.extend_from_within(part(at, *most)),
            }
        }
        bytes
    }

    /// Frames of every kind, changed a little.
    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let frame = (prop::sample::select(zoo()), edits());
        vec(frame.prop_map(|(frame, edits)| edited(frame, &edits)), 0..6)
    }

    /// A whole capture in any layout.
    fn whole_capture() -> impl Strategy<Value = Vec<u8>> {
        let record = |frame: Vec<u8>| (any::<u32>(), 0..1_000_000_u32, 0..100_u32, Just(frame));
        let records =
            frames().prop_flat_map(move |frames| frames.into_iter().map(record).collect::<Vec<_>>());
        (any::<[bool; 2]>(), records).prop_map(|([big_endian, nanoseconds], records)| {
            let layout = Layout {
                big_endian,
                nanoseconds,
            };
            let add = |file: File, (seconds, fraction, cut, frame): &(u32, u32, u32, Vec<u8>)| {
                let length = frame.len() as u32;
                file.record([*seconds, *fraction, length, length + cut], frame)
            };
            records.iter().fold(File::with_layout(layout), add).bytes
        })
    }

    fn deliveries() -> impl Strategy<Value = Vec<Delivery>> {
        let delivery = prop_oneof![
            3 => (0..30_usize).prop_map(Delivery::Bytes),
            3 => (0..400_usize).prop_map(Delivery::Bytes),
            2 => Just(Delivery::Bytes(0)),
            1 => Just(Delivery::Interruption),
            1 => Just(Delivery::Failure),
        ];
        vec(delivery, 0..40)
    }

    #[test]
    fn reads_what_a_plain_reading_of_the_bytes_gives() {
        let ends = RefCell::new(Vec::new());
        let tried = TestRunner::new(cases(1000)).run(&(whole_capture(), edits()), |(capture, edits)| {
            ends.borrow_mut().push(reader(&edited(capture, &edits)));
            Ok(())
        });
        tried.unwrap();
        // The edits are strong enough to give each end.
        for end in [End::Foreign, End::Whole, End::Torn, End::Damaged] {
            let count = ends.borrow().iter().filter(|other| **other == end).count();
            assert!(count > 50, "{count} captures end so: {end:?}");
        }
    }

    proptest! {
        #![proptest_config(cases(1000))]

        #[test]
        fn follows_a_capture_that_grows(
            capture in whole_capture(),
            edits in prop_oneof![Just(Vec::new()), edits()],
            deliveries in deliveries(),
        ) {
            follower(&edited(capture, &edits), &deliveries);
        }
    }

    proptest! {
        #![proptest_config(cases(4000))]

        #[test]
        fn decodes_each_layer_within_the_one_below(frames in frames()) {
            for frame in frames {
                packet(Frame::new(Duration::from_millis(86_399_999), frame));
            }
        }
    }

    proptest! {
        #![proptest_config(cases(50))]

        #[test]
        fn follows_frames_that_cross_the_end_of_the_buffer(
            lengths in vec(prop_oneof![Just(MAX_CAPTURED_LEN), 0..=MAX_CAPTURED_LEN], 1..6),
            deliveries in vec((0..400_000_usize).prop_map(Delivery::Bytes), 0..10),
        ) {
            let frames: Vec<_> = lengths.iter().map(|&length| vec![length as u8; length as usize]).collect();
            follower(&file_of(&frames), &deliveries);
        }
    }
}
