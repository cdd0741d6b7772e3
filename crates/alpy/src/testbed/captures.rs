// SPDX-License-Identifier: GPL-3.0-or-later
//! The captures of a testbed whose machines have ended: whether they are complete, and all of them in one file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use alpy_pcap::{Capture, Merge};

use super::wired::Counted;
use crate::error::Error;
use crate::failure::chain;
use crate::report::{self, Recorder};
use crate::step;

/// How long counting and merging may take, and how much more for each so many bytes: a slow disk takes that.
const LIMIT: Duration = Duration::from_secs(60);
const BYTES_A_SECOND: u64 = 10 << 20;

/// How much longer the runtime waits for the thread, which looks at the clock between two frames and not in the middle of a read.
const GRACE: Duration = Duration::from_secs(10);

/// A capture that nobody writes to any more.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) link: usize,
    /// The number of the clock that its times are of.
    pub(super) clock: usize,
    pub(super) capture: Capture,
    /// What the kernel has counted, if the link has a tap.
    pub(super) counted: Option<Counted>,
}

/// Compares each capture with what the kernel has counted, and writes all of them to one file, with the steps between the frames. The
/// record learns the differences of the clocks, and the marks.
///
/// Large captures take minutes, so a thread of its own reads them, each twice: for the number of its frames and its clock, then to merge it.
/// Returns what is wrong.
pub(super) async fn complete(
    captures: Vec<Ended>,
    steps: Vec<(SystemTime, String)>,
    recorder: Arc<Recorder>,
    path: PathBuf,
) -> Vec<String> {
    let bytes: u64 = captures.iter().map(|ended| length(&ended.capture)).sum();
    let limit = LIMIT + Duration::from_secs(bytes / BYTES_A_SECOND);
    let work = move || on_thread(&captures, &steps, &recorder, &path, Instant::now() + limit);
    let work = async {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Error::Runtime(std::io::Error::other(error)))
    };
    match step!(target: "alpy::testbed", within: limit + GRACE, "Check and merge captures", work).await {
        Ok(errors) => errors,
        Err(error) => vec![format!("check and merge captures: {}", chain(&error))],
    }
}

fn length(capture: &Capture) -> u64 {
    fs::metadata(capture.path()).map_or(0, |file| file.len())
}

fn on_thread(
    captures: &[Ended],
    steps: &[(SystemTime, String)],
    recorder: &Recorder,
    path: &Path,
    deadline: Instant,
) -> Vec<String> {
    let (mut errors, mut merged) = (Vec::new(), Vec::new());
    let mut merge = Merge::new().deadline(deadline);
    for ended in captures {
        let name = format!("link{}", ended.link);
        match merge.link_with_clock(ended.clock, name, &ended.capture) {
            Ok(()) => merged.push(ended),
            Err(error) => errors.push(format!(
                "count the frames in {}: {}",
                ended.capture.path().display(),
                chain(&error)
            )),
        }
    }
    for (ended, frames) in merged.iter().zip(merge.frames()) {
        let counted = ended.counted.as_ref();
        errors.extend(counted.and_then(|counted| counted.fault(ended.capture.path(), frames)));
    }
    for (began, text) in steps {
        merge.note(*began, text);
    }
    for (ended, ahead) in merged.iter().zip(merge.clocks()) {
        let mut record = recorder.lock();
        let Some(link) = record.links.get_mut(ended.link) else {
            continue;
        };
        link.clock_ahead = Some(ahead as f64 / 1e9);
        let marks = ended.capture.marks();
        link.marks = marks
            .iter()
            .map(|mark| report::Mark {
                name: mark.name().to_owned(),
                made: report::seconds(mark.made()),
            })
            .collect();
    }
    if let Err(error) = merge.write(path) {
        errors.push(format!("write {}: {}", path.display(), chain(&error)));
        // A part of it would be taken for the whole.
        let _ = fs::remove_file(path);
    }
    errors
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::time::ClockId;

    use super::*;

    /// A capture of so many bytes: classic pcap, little endian, Ethernet, frames of 1,024 bytes.
    fn capture(path: &Path, bytes: usize) -> Capture {
        let mut file = std::io::BufWriter::new(fs::File::create(path).unwrap());
        let header = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1];
        header
            .iter()
            .for_each(|word| file.write_all(&word.to_le_bytes()).unwrap());
        let record: Vec<u8> = [100_u32, 0, 1024, 1024]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .chain([0x55; 1024])
            .collect();
        (0..bytes / record.len()).for_each(|_| file.write_all(&record).unwrap());
        file.into_inner().unwrap();
        Capture::open(path).unwrap()
    }

    /// A runtime of one thread goes on with other tasks meanwhile. `ALPY_TEST_CAPTURE_MIB` makes it as large as one likes.
    #[tokio::test]
    async fn large_captures_do_not_stop_the_runtime() {
        let folder = tempfile::tempdir().unwrap();
        let mib = std::env::var("ALPY_TEST_CAPTURE_MIB").map_or(32, |mib| mib.parse().unwrap());
        let ended = Ended {
            link: 0,
            clock: 0,
            capture: capture(&folder.path().join("link0.pcap"), mib << 20),
            counted: None,
        };
        let ticks = Arc::new(AtomicU32::new(0));
        let ticked = Arc::clone(&ticks);
        let ticker = tokio::spawn(async move {
            let mut last = Instant::now();
            let mut longest = Duration::ZERO;
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            loop {
                tick.tick().await;
                longest = longest.max(last.elapsed());
                last = Instant::now();
                if ticked.fetch_add(1, Ordering::Relaxed) % 100 == 0 {
                    println!("longest pause of the ticker so far: {longest:?}");
                }
            }
        });
        let merged = folder.path().join("links.pcapng");
        let clocks = [
            ClockId::CLOCK_THREAD_CPUTIME_ID,
            ClockId::CLOCK_PROCESS_CPUTIME_ID,
        ];
        let processor_time = || clocks.map(|clock| Duration::from(clock.now().unwrap()));
        let before = processor_time();
        let errors = complete(vec![ended], Vec::new(), Arc::default(), merged.clone()).await;
        let after = processor_time();
        // Each tick is one while the captures were read: nothing else was awaited.
        let ticks = ticks.load(Ordering::Relaxed);
        ticker.abort();
        let (here, all) = (after[0] - before[0], after[1] - before[1]);
        println!("{here:.1?} of {all:.1?} of processor time on the runtime's thread, {ticks} ticks");
        // Processor time, not wall time: it shows on a busy host too that another thread did the work.
        assert!(4 * here < all, "{here:?} of {all:?}");
        assert_eq!(errors, Vec::<String>::new());
        assert!(fs::metadata(merged).unwrap().len() > (mib as u64 - 1) << 20);
        assert!(ticks >= 3, "{ticks} ticks");
    }

    #[tokio::test]
    async fn a_capture_that_cannot_be_read_is_an_error_and_the_others_are_merged() {
        let folder = tempfile::tempdir().unwrap();
        let ended = |link: usize| Ended {
            link,
            clock: 0,
            capture: capture(&folder.path().join(format!("link{link}.pcap")), 10_400),
            counted: None,
        };
        let captures = vec![ended(0), ended(1)];
        fs::write(folder.path().join("link0.pcap"), "no capture").unwrap();
        let merged = folder.path().join("links.pcapng");
        let errors = complete(captures, Vec::new(), Arc::default(), merged.clone()).await;
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("link0.pcap"), "{errors:?}");
        assert!(fs::metadata(merged).unwrap().len() > 10_000);
    }
}
