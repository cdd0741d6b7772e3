// SPDX-License-Identifier: GPL-3.0-or-later
//! Frames that are expected while the capture is written.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use alpy_pcap::{Capture, Error, Reader, Timer, filter};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::build::{FAR, File, file_of, zoo};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

/// A capture that begins with the first three frames of the zoo: no ping of VLAN 100 is among them.
struct Growing {
    _dir: TempDir,
    path: PathBuf,
    capture: Capture,
}

impl Growing {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory is made");
        let path = dir.path().join("link0.pcap");
        std::fs::write(&path, file_of(&zoo()[..3])).expect("it is written");
        let capture = Capture::open(&path).expect("it is a capture");
        Self {
            _dir: dir,
            path,
            capture,
        }
    }

    fn append(&self, bytes: &[u8]) {
        let writer = OpenOptions::new().append(true).open(&self.path);
        writer
            .expect("it is there")
            .write_all(bytes)
            .expect("it is written");
    }
}

fn record(index: usize) -> Vec<u8> {
    file_of(&zoo()[index..=index]).split_off(File::new().bytes.len())
}

/// So that what follows comes while somebody waits.
#[expect(clippy::disallowed_methods, reason = "there is nothing to wait for")]
async fn pause() {
    tokio::time::sleep(SHORT).await;
}

#[tokio::test]
async fn expects_what_is_there_and_what_is_to_come() {
    let growing = Growing::new();
    let capture = &growing.capture;
    let ping = capture.expect(filter::icmp_echo_to(FAR), LONG).await.unwrap();
    assert_eq!(ping.frame().bytes(), zoo()[2]);

    let mark = capture.mark("behind the ping").unwrap();
    let rest = capture.since(&mark).unwrap();
    let expected = rest.expect(filter::vlan(100), LONG);
    let later = async {
        pause().await;
        let (head, tail) = (&record(17)[..30], &record(17)[30..]);
        growing.append(&record(0));
        growing.append(head);
        pause().await;
        let written = Instant::now();
        growing.append(tail);
        written
    };
    let (tagged, written) = tokio::join!(expected, later);
    assert_eq!(tagged.unwrap().frame().bytes(), zoo()[17]);
    assert!(
        written.elapsed() < Duration::from_secs(1),
        "{:?}",
        written.elapsed()
    );
}

#[tokio::test]
async fn the_captures_timer_measures_every_limit() {
    // By wall time, each limit is over at once. This timer ends when `end` is notified, as if the host starved the sender until then.
    let (end, limits) = (Arc::new(Notify::new()), Arc::new(Mutex::new(Vec::new())));
    let timer: Timer = Arc::new({
        let (end, limits) = (Arc::clone(&end), Arc::clone(&limits));
        move |limit| {
            limits.lock().unwrap().push(limit);
            let end = Arc::clone(&end);
            Box::pin(async move { end.notified().await })
        }
    });
    let growing = Growing::new();
    let capture = growing.capture.clone().timer(timer);
    let rest = capture.since(&capture.mark("the three").unwrap()).unwrap();
    let instant = Duration::from_nanos(1);
    let write = async {
        pause().await;
        growing.append(&record(17));
    };
    let (found, ()) = tokio::join!(rest.expect(filter::vlan(100), instant), write);
    assert_eq!(found.unwrap().frame().bytes(), zoo()[17]);
    let write = async {
        pause().await;
        growing.append(&record(2));
    };
    let rest = rest.since(&rest.mark("the tagged one").unwrap()).unwrap();
    let (none, ()) = tokio::join!(rest.expect_none(filter::icmp_echo_to(FAR), instant), write);
    assert!(matches!(none, Err(Error::Seen { .. })), "{none:?}");
    // The wait ends when the timer ends.
    let over = async {
        pause().await;
        end.notify_waiters();
    };
    let (unseen, ()) = tokio::join!(timeout(LONG, rest.expect(filter::tcp_syn_to(80), instant)), over);
    assert!(
        matches!(unseen, Ok(Err(Error::Unseen { looked_at: 1, .. }))),
        "{unseen:?}"
    );
    assert_eq!(*limits.lock().unwrap(), [instant; 3]);
}

#[tokio::test]
async fn errors_count_the_times_of_frames_from_a_start_that_they_are_given() {
    let growing = Growing::new();
    // The clock of the capture is years behind, and its frames are a second apart.
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let file = OpenOptions::new().append(true).open(&growing.path).unwrap();
    file.set_modified(written).unwrap();
    let last = growing.capture.last(1).unwrap()[0].frame().timestamp();
    let first = growing.capture.last(usize::MAX).unwrap()[0].frame().timestamp();
    let start = written - Duration::from_millis(12_500);
    let capture = growing.capture.clone().clock_start(start);
    let error = capture.expect(filter::tcp_syn_to(80), SHORT).await.unwrap_err();
    let text = error.to_string();
    let at = |time: Duration| format!("\n  {:8.4}  ", 12.5 - (last - time).as_secs_f64());
    for part in [
        "the last frames, with seconds since the run began:",
        &at(first),
        &at(last),
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    // A part of it has the same clock.
    let mark = capture.mark("now").unwrap();
    let seen = capture.until(&mark).unwrap().expect_none(|_| true, SHORT).await;
    let text = seen.unwrap_err().to_string();
    let first = at(first);
    assert!(text.contains(&format!("saw {}", first.trim_start())), "{text}");
}

#[tokio::test]
async fn a_frame_that_does_not_come_is_an_error_that_shows_what_did() {
    let growing = Growing::new();
    let began = Instant::now();
    let (capture, line) = (&growing.capture, line!() + 1);
    let expected = capture.expect(filter::tcp_syn_to(80), SHORT);
    let error = expected.await.unwrap_err();
    assert!(began.elapsed() >= SHORT);
    let text = error.to_string();
    assert!(matches!(error, Error::Unseen { looked_at: 3, .. }), "{text}");
    let place = format!("live.rs:{line}:");
    for part in [
        "link0.pcap",
        &place,
        "within 50ms",
        "saw 3 others",
        "ARP, Request",
        "ICMP echo request",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[tokio::test]
async fn a_frame_that_must_not_come_is_an_error_at_once() {
    let growing = Growing::new();
    let capture = &growing.capture;
    assert_eq!(capture.expect_none(filter::vlan(100), SHORT).await.unwrap(), 3);

    let there = timeout(LONG, capture.expect_none(filter::icmp_echo_to(FAR), LONG * 10)).await;
    assert!(matches!(there, Ok(Err(Error::Seen { .. }))), "{there:?}");
    let coming = async {
        pause().await;
        growing.append(&record(17));
    };
    let (came, ()) = tokio::join!(
        timeout(LONG, capture.expect_none(filter::vlan(100), LONG * 10)),
        coming
    );
    let text = came.unwrap().unwrap_err().to_string();
    assert!(
        text.contains("vlan 100") && text.contains("the last frames"),
        "{text}"
    );
}

#[tokio::test]
async fn all_that_is_there_counts_however_much_it_is_and_however_short_the_time() {
    let growing = Growing::new();
    let others = record(0).repeat(5000);
    growing.append(&others);
    growing.append(&record(17));
    growing.append(&others);
    let capture = &growing.capture;
    let found = capture.expect(filter::vlan(100), Duration::ZERO).await.unwrap();
    assert_eq!(found.frame().bytes(), zoo()[17]);
    let seen = capture.expect_none(filter::vlan(100), Duration::ZERO).await;
    assert!(matches!(seen, Err(Error::Seen { .. })), "{seen:?}");
    let all = capture
        .expect_none(filter::vlan(7), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(all, capture.count(|_| true).unwrap());
}

#[tokio::test]
async fn a_part_that_ends_with_a_mark_is_not_waited_for() {
    let growing = Growing::new();
    let mark = growing.capture.mark("end").unwrap();
    growing.append(&record(17));
    let part = growing.capture.until(&mark).unwrap();
    let unseen = timeout(LONG, part.expect(filter::vlan(100), LONG * 10))
        .await
        .unwrap();
    assert!(
        matches!(unseen, Err(Error::Unseen { looked_at: 3, .. })),
        "{unseen:?}"
    );
    assert_eq!(
        timeout(LONG, part.expect_none(filter::vlan(100), LONG * 10))
            .await
            .unwrap()
            .unwrap(),
        3
    );
    let mut follower = part.follow().unwrap();
    for _ in 0..3 {
        assert!(follower.next_packet().await.unwrap().is_some());
    }
    assert_eq!(
        timeout(LONG, follower.next_packet()).await.unwrap().unwrap(),
        None
    );
}

#[tokio::test]
async fn a_follower_loses_and_doubles_nothing_of_what_is_written_byte_by_byte() {
    let growing = Growing::new();
    let mut follower = growing.capture.follow().unwrap();
    for frame in &zoo()[..3] {
        let packet = follower.next_packet().await.unwrap().unwrap();
        assert_eq!(packet.frame().bytes(), frame);
    }
    let path = growing.path.clone();
    let writer = std::thread::spawn(move || {
        let mut writer = OpenOptions::new().append(true).open(path).unwrap();
        for index in 3..zoo().len() {
            for byte in record(index) {
                writer.write_all(&[byte]).unwrap();
            }
        }
    });
    for frame in &zoo()[3..] {
        let packet = timeout(LONG, follower.next_packet())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(packet.frame().bytes(), frame);
    }
    writer.join().unwrap();
    assert_eq!(follower.try_next_packet().unwrap(), None);
}

#[tokio::test]
async fn a_stream_that_is_told_of_the_end_has_all_that_came_before_it() {
    let growing = Growing::new();
    let mut stream = Vec::new();
    let end = async {
        // Written at the last moment, so that nothing tells of it any more.
        growing.append(&record(17));
    };
    let streamed = growing.capture.stream_until(&mut stream, end);
    timeout(LONG, streamed).await.expect("it ends").unwrap();
    let mut reader = Reader::new(&stream[..], "stream").unwrap();
    let mut count = 0;
    while reader.next_frame().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, growing.capture.packets().unwrap().count());
}

#[tokio::test]
async fn streams_what_is_there_and_what_comes_to_a_pipe() {
    let growing = Growing::new();
    let (ours, mut theirs) = tokio::io::duplex(64);
    let stream = growing.capture.stream_to(ours);
    let read = async {
        let mut seen = Vec::new();
        let count = |seen: &[u8]| {
            let mut reader = Reader::new(seen, "pipe").ok()?;
            let mut frames = Vec::new();
            while let Ok(Some(frame)) = reader.next_frame() {
                frames.push((frame.timestamp(), frame.bytes().to_vec()));
            }
            Some(frames)
        };
        let mut appended = false;
        loop {
            theirs.read_buf(&mut seen).await.unwrap();
            let frames = count(&seen).unwrap_or_default();
            if frames.len() == 3 && !appended {
                growing.append(&record(17));
                appended = true;
            }
            if frames.len() == 4 {
                // Nobody reads any more, which the next frame brings out.
                drop(theirs);
                growing.append(&record(0));
                return frames;
            }
        }
    };
    let (streamed, frames) = timeout(LONG, async { tokio::join!(stream, read) }).await.unwrap();
    streamed.unwrap();
    let expected: Vec<_> = growing.capture.packets().unwrap().map(Result::unwrap).collect();
    for ((time, bytes), packet) in frames.iter().zip(&expected) {
        assert_eq!(
            (*time, &bytes[..]),
            (packet.frame().timestamp(), packet.frame().bytes())
        );
    }
}

#[tokio::test]
async fn a_damaged_record_ends_a_wait() {
    let growing = Growing::new();
    growing.append(&[0xff; 16]);
    let damaged = timeout(LONG, growing.capture.expect(filter::vlan(1), LONG * 10))
        .await
        .unwrap();
    assert!(matches!(damaged, Err(Error::Damaged { .. })), "{damaged:?}");
}
