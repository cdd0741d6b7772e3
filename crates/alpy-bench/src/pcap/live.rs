// SPDX-License-Identifier: GPL-3.0-or-later
//! How long a frame takes from its write to whoever follows the capture.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use alpy::pcap::Reader;
use anyhow::{Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::made::{file_header, record_header};
use crate::figure::{note, print};
use crate::measure::quantile;
use crate::{Extent, order};

const FRAMES: usize = 2000;
const PAUSE: Duration = Duration::from_micros(500);
const LIMIT: Duration = Duration::from_secs(60);
const LENGTH: usize = 100;

type Follow = fn(&Path, Instant) -> Result<Vec<f64>>;

/// The library reads what is there and leaves the waiting to its user, who has inotify(7) for it.
const SUBJECTS: [(&str, Follow); 2] = [
    ("spinning bare reader", spin),
    ("alpy-pcap, woken by inotify", woken),
];

/// Measures it.
pub(super) fn measure(extent: &Extent, path: &Path) -> Result<()> {
    for run in 0..extent.runs {
        note(&format!("pcap: live, run {} of {}", run + 1, extent.runs));
        for index in order(SUBJECTS.len(), run) {
            let (subject, follow) = SUBJECTS[index];
            let mut file = File::create(path)?;
            file.write_all(&file_header())?;
            let began = Instant::now();
            let writer = thread::spawn(move || write(file, began));
            let delays = follow(path, began);
            writer.join().expect("the writer does not panic")?;
            let mut delays = delays?;
            print("live", "median, us", subject, quantile(&mut delays, 0.5) * 1e6);
            print("live", "p99, us", subject, quantile(&mut delays, 0.99) * 1e6);
        }
    }
    Ok(())
}

/// Writes a frame now and then, each with the moment in it.
fn write(mut file: File, began: Instant) -> Result<()> {
    let mut record = record_header(1, LENGTH).to_vec();
    record.resize(16 + LENGTH, 0);
    for _ in 0..FRAMES {
        thread::park_timeout(PAUSE);
        let now = u64::try_from(began.elapsed().as_nanos())?;
        record[16..24].copy_from_slice(&now.to_le_bytes());
        file.write_all(&record)?;
    }
    Ok(())
}

fn delay(frame: &[u8], began: Instant) -> f64 {
    let now = began.elapsed();
    let sent = frame.first_chunk().copied().unwrap_or_default();
    now.saturating_sub(Duration::from_nanos(u64::from_le_bytes(sent)))
        .as_secs_f64()
}

/// The limit, at the price of a whole processor.
fn spin(path: &Path, began: Instant) -> Result<Vec<f64>> {
    let mut file = File::open(path)?;
    file.read_exact(&mut [0; 24])?;
    let mut delays = Vec::with_capacity(FRAMES);
    let mut record = [0; 16 + LENGTH];
    let mut filled = 0;
    while delays.len() < FRAMES {
        filled += file.read(&mut record[filled..])?;
        if filled == record.len() {
            delays.push(delay(&record[16..], began));
            filled = 0;
        } else {
            ensure!(began.elapsed() < LIMIT, "saw {} of {FRAMES} frames", delays.len());
        }
    }
    Ok(delays)
}

fn woken(path: &Path, began: Instant) -> Result<Vec<f64>> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    inotify.add_watch(path, AddWatchFlags::IN_MODIFY)?;
    let mut reader = Reader::open(path)?;
    let mut delays = Vec::with_capacity(FRAMES);
    while delays.len() < FRAMES {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                delays.push(delay(frame.bytes(), began));
                continue;
            }
            Ok(None) => {}
            Err(error) if error.is_torn() => {}
            Err(error) => return Err(error.into()),
        }
        ensure!(began.elapsed() < LIMIT, "saw {} of {FRAMES} frames", delays.len());
        let mut waiting = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::from(1000_u16))? > 0 {
            inotify.read_events()?;
        }
    }
    Ok(delays)
}
