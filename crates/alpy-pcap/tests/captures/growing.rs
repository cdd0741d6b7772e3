// SPDX-License-Identifier: GPL-3.0-or-later
//! Captures that are read while they are written.

use std::fs::OpenOptions;
use std::io::Write;

use alpy_pcap::{Capture, Error, Packet, Reader};

use crate::build::{File, file_of, zoo};

#[test]
fn a_reader_gives_each_frame_as_soon_as_its_last_byte_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link0.pcap");
    let head = File::new().bytes;
    std::fs::write(&path, &head).unwrap();
    let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    assert_eq!(reader.next_frame().unwrap(), None);

    for frame in zoo() {
        let record = File::new().frame(1, 0, &frame).bytes.split_off(head.len());
        let (last, torn) = record.split_last().unwrap();
        for byte in torn {
            writer.write_all(&[*byte]).unwrap();
            assert!(reader.next_frame().unwrap_err().is_torn());
        }
        writer.write_all(&[*last]).unwrap();
        assert_eq!(
            reader
                .next_frame()
                .unwrap()
                .expect("the frame is complete")
                .bytes(),
            frame
        );
        assert_eq!(reader.next_frame().unwrap(), None);
    }
}

#[test]
fn a_capture_torn_anywhere_has_the_frames_before_the_tear() {
    let frames = &zoo()[..4];
    let whole = file_of(frames);
    let ends: Vec<usize> = (0..=frames.len())
        .map(|count| file_of(&frames[..count]).len())
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link0.pcap");

    for length in ends[0]..=whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        let complete = ends.iter().filter(|end| **end <= length).count() - 1;
        let capture = Capture::open(&path).unwrap();
        match capture.count(|_| true) {
            Ok(count) => assert!(
                ends.contains(&length) && count == complete,
                "{count} frames in {length} bytes"
            ),
            Err(Error::Torn { offset, .. }) => assert_eq!(offset, ends[complete] as u64),
            Err(error) => panic!("{length} bytes: {error}"),
        }

        let lenient = capture.ignore_torn_tail();
        assert_eq!(lenient.count(|_| true).unwrap(), complete);
        let packets: Vec<Packet<'_>> = lenient.packets().unwrap().collect::<Result<_, _>>().unwrap();
        let bytes: Vec<&[u8]> = packets.iter().map(|packet| packet.frame().bytes()).collect();
        assert_eq!(bytes, frames[..complete]);
    }
}

#[test]
fn a_capture_that_has_grown_gives_the_longer_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link0.pcap");
    std::fs::write(&path, file_of(&zoo()[..2])).unwrap();
    let capture = Capture::open(&path).unwrap();
    assert_eq!(capture.count(|_| true).unwrap(), 2);
    std::fs::write(&path, file_of(&zoo()[..5])).unwrap();
    assert_eq!(capture.count(|_| true).unwrap(), 5);
}
