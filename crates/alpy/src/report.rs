// SPDX-License-Identifier: GPL-3.0-or-later
//! The report of a run: one page that says how it went, and why.
//!
//! Each run leaves `report.html` in its evidence directory: verdict and failure, the topology, the steps as bars, what the log, the consoles, QMP
//! and the containers have said on one clock, and the packets of each link. It is one file without a script and without a link to elsewhere, to
//! be opened from the disk. It is made of the files beside it, of which one is for it alone: `run.json`, what the run knows of itself.
//!
//! See [the guide](crate::guide::report).

mod chatter;
mod compare;
mod html;
mod owners;
mod packets;
mod page;
mod rates;
mod record;
mod sequence;
mod source;
mod topology;
mod traffic;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) use page::{LastOnLink, Wire};
pub(crate) use record::{
    Container, FailureRecord, Mark, Recorder, Start, Words, is_file_name, seconds, steps,
};
pub(crate) use record::{Link as LinkRecord, Record, Verdict};
pub(crate) use source::open;

use crate::error::{Error, Result};

/// The names of the two files.
const RECORD: &str = "run.json";
const REPORT: &str = "report.html";

/// The longest record that is read.
const LONGEST: u64 = 64 << 20;

/// Makes `report.html` anew from what an evidence directory holds, and says where it is. That works too for a run whose process was killed:
/// its report says so.
///
/// It blocks the thread, as a rule for some milliseconds; files are read in part, so that it is two seconds at most.
///
/// ```no_run
/// let page = alpy::report::render("target/alpy/forward-ipv4")?;
/// println!("file://{}", page.display());
/// # Ok::<_, alpy::Error>(())
/// ```
///
/// # Errors
/// There is no `run.json`, or it is not one, or it names a file outside of the directory; the page cannot be written.
pub fn render(dir: impl AsRef<Path>) -> Result<PathBuf> {
    let dir = dir.as_ref();
    let failed = |source| Error::Report {
        dir: dir.to_owned(),
        source,
    };
    let mut record = read_record(dir).map_err(failed)?;
    if record.ended.is_none() {
        source::complete(dir, &mut record);
    }
    let written = write_page(dir, &record).map_err(failed);
    written.map(|(path, _)| path)
}

/// Writes the record of a run that has only begun, for the case that nobody can later.
pub(crate) fn begin(dir: &Path, recorder: &Recorder) {
    let written = write_record(dir, &recorder.lock());
    if let Err(error) = written {
        tracing::warn!(target: "alpy::report", "Cannot write {RECORD}: {error}");
    }
}

/// Writes the record and the page of a run that has ended, and returns what was on the wire if it has failed. A test does not fail for it.
pub(crate) fn end(dir: &Path, recorder: &Recorder) -> Wire {
    let began = Instant::now();
    let mut record = recorder.lock().clone();
    record.files = source::files(dir);
    let written = write_record(dir, &record).and_then(|()| write_page(dir, &record));
    match written {
        Ok((path, last)) => {
            let took = began.elapsed();
            tracing::debug!(target: "alpy::report", ?took, "report {}", path.display());
            last
        }
        Err(error) => {
            tracing::warn!(target: "alpy::report", "Cannot write the report: {error}");
            Wire::default()
        }
    }
}

/// What a run has written of itself.
pub(crate) fn read_record(dir: &Path) -> io::Result<Record> {
    use std::io::Read;
    let mut text = String::new();
    source::open(&dir.join(RECORD))?
        .take(LONGEST)
        .read_to_string(&mut text)?;
    Record::parse(&text)
}

fn write_record(dir: &Path, record: &Record) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(record)?;
    text.push(b'\n');
    replace(&dir.join(RECORD), &text)
}

fn write_page(dir: &Path, record: &Record) -> io::Result<(PathBuf, Wire)> {
    let path = dir.join(REPORT);
    let (page, last) = page::page(dir, record);
    replace(&path, page.as_bytes())?;
    Ok((path, last))
}

/// Writes a file in place of another one, whatever that is; nobody sees a part of it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::create_new(&unfinished)?.write_all(content)?;
    fs::rename(&unfinished, path)
}
