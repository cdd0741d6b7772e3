// SPDX-License-Identifier: GPL-3.0-or-later
//! A large capture, read and decoded; and one that is being written, followed.

mod live;
mod made;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use alpy::pcap::{Capture, Reader};
use anyhow::{Context, Result, ensure};

use crate::figure::{note, print};
use crate::{Extent, order, peer};
use made::Made;

/// Where a large file may be for a while; the folder of the system for such files else.
const FOLDER: &str = "ALPY_BENCH_FOLDER";

/// How long tcpdump may take to print it all.
const TCPDUMP: &str = "300";

#[derive(Clone, Copy)]
enum Subject {
    Bare,
    Reading,
    Decoding,
    Filter,
}

const SUBJECTS: [Subject; 4] = [
    Subject::Bare,
    Subject::Reading,
    Subject::Decoding,
    Subject::Filter,
];

/// Measures it.
pub(crate) fn measure(extent: &Extent) -> Result<()> {
    let folder = match std::env::var_os(FOLDER) {
        Some(folder) => tempfile::tempdir_in(folder)?,
        None => tempfile::tempdir()?,
    };
    let path = folder.path().join("large.pcap");
    note(&format!("pcap: write a capture of {} MB", extent.size.capture_mb));
    let made = made::write(&path, extent.size.capture_mb)?;
    for run in 0..extent.runs {
        note(&format!("pcap: run {} of {}", run + 1, extent.runs));
        for index in order(SUBJECTS.len(), run) {
            let subject = SUBJECTS[index];
            report(subject.name(), &made, subject.time(&path, &made)?);
        }
    }
    // It takes a minute, so it does so once.
    note("pcap: tcpdump -nr");
    let start = Instant::now();
    let mut command = tcpdump(&path);
    command.stdout(std::process::Stdio::null());
    let status = command.status().context("start tcpdump")?;
    if status.success() {
        report("tcpdump -nr, once", &made, start.elapsed());
    } else {
        note(&format!("pcap: tcpdump -nr, given {TCPDUMP} s: {status}"));
    }
    std::fs::remove_file(&path)?;
    live::measure(extent)
}

fn report(subject: &str, made: &Made, time: Duration) {
    let case = &format!("{} MB in the page cache", made.megabytes);
    print(case, "time, s", subject, time.as_secs_f64());
    print(
        case,
        "million packets, 1/s",
        subject,
        made.packets as f64 / time.as_secs_f64() / 1e6,
    );
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Bare => "hand-written loop",
            Self::Reading => "alpy-pcap, reading",
            Self::Decoding => "alpy-pcap, decoding to ports",
            Self::Filter => "tcpdump, a filter of ports",
        }
    }

    /// Each looks at all packets, and finds what it is known to.
    fn time(self, path: &Path, made: &Made) -> Result<Duration> {
        let start = Instant::now();
        let (found, expected) = match self {
            Self::Bare => (bare(path)?, made.packets),
            Self::Reading => {
                let mut reader = Reader::open(path)?;
                let (mut packets, mut bytes) = (0, 0);
                while let Some(frame) = reader.next_frame()? {
                    packets += 1;
                    bytes += frame.bytes().len();
                }
                std::hint::black_box(bytes);
                (packets, made.packets)
            }
            Self::Decoding => {
                let to = |packet: &alpy::pcap::Packet<'_>| {
                    packet.tcp().map(|tcp| tcp.destination_port) == Some(made::PORT)
                        || packet.udp().map(|udp| udp.destination_port) == Some(made::PORT)
                };
                (Capture::open(path)?.count(to)?, made.to_port)
            }
            Self::Filter => {
                let mut command = tcpdump(path);
                command.args(["-w", "/dev/null", &format!("dst port {}", made::PORT)]);
                peer::output(command)?;
                (made.to_port, made.to_port)
            }
        };
        let time = start.elapsed();
        ensure!(
            found == expected,
            "{} found {found} packets, and there are {expected}",
            self.name()
        );
        Ok(time)
    }
}

fn tcpdump(path: &Path) -> std::process::Command {
    let mut command = peer::program("timeout");
    command.args([TCPDUMP, "tcpdump", "-n"]);
    if nix::unistd::geteuid().is_root() {
        // Else it becomes a user who may not read the file.
        command.args(["-Z", "root"]);
    }
    command.arg("-r").arg(path);
    command
}

/// The limit: the lengths of the records, and nothing of what is in them.
fn bare(path: &Path) -> Result<usize> {
    const HEADER: usize = 16;
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    file.read_exact(&mut buffer[..24])?;
    let (mut start, mut end, mut packets, mut bytes) = (0, 0, 0, 0);
    loop {
        while end - start >= HEADER {
            let field = &buffer[start + 8..start + 12];
            let length = u32::from_le_bytes(field.try_into().expect("it is 4 bytes")) as usize;
            if end - start < HEADER + length {
                break;
            }
            bytes += length;
            packets += 1;
            start += HEADER + length;
        }
        buffer.copy_within(start..end, 0);
        (start, end) = (0, end - start);
        let more = file.read(&mut buffer[end..])?;
        if more == 0 {
            std::hint::black_box(bytes);
            ensure!(end == 0, "{end} bytes are left of a torn record");
            return Ok(packets);
        }
        end += more;
    }
}
