// SPDX-License-Identifier: GPL-3.0-or-later
//! A flood of output, in a process of its own because its memory is measured.
#![expect(clippy::unwrap_used, reason = "in a test, what fails shall fail loudly")]

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use alpy_console::{Console, ReadUntil};

const FLOOD: usize = 50_000_000;
const WINDOW: usize = 4 << 20;

#[tokio::test]
async fn finds_the_marker_behind_fifty_megabytes_in_bounded_time_and_memory() {
    let dir = tempfile::tempdir().unwrap();
    for needle in [
        ReadUntil::from("marker 17: "),
        ReadUntil::regex(r"marker (\d+): ").unwrap(),
    ] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = tokio::net::UnixStream::from_std(ours).unwrap();
        let far = thread::spawn(move || {
            let line = b"[   12.345678] a line of a machine that has much to say about nothing\r\n";
            let block = line.repeat(900);
            let mut left = FLOOD;
            while left > 0 {
                let length = left.min(block.len());
                theirs.write_all(&block[..length]).unwrap();
                left -= length;
            }
            theirs.write_all(b"marker 17: ").unwrap();
            theirs
        });
        let console = Console::builder()
            .transcript(dir.path())
            .window_bytes(WINDOW)
            .start(ours)
            .unwrap();
        let start = Instant::now();
        let found = console.expect(needle, Duration::from_secs(60)).await.unwrap();
        println!(
            "{FLOOD} bytes in {:?}, peak {} MiB",
            start.elapsed(),
            peak_memory() >> 20
        );
        assert_eq!(found.before.len() as u64 + found.dropped, FLOOD as u64);
        assert_eq!(
            fs::metadata(dir.path().join("console.raw")).unwrap().len(),
            FLOOD as u64 + 11
        );
        drop(far.join().unwrap());
    }
    let most = (16 << 20) + 2 * WINDOW;
    assert!(peak_memory() < most, "{} of {most} bytes", peak_memory());
}

/// The most physical memory that this process had, see `VmHWM` in proc_pid_status(5).
fn peak_memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes << 10
}
