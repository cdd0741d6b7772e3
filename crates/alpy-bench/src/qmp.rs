// SPDX-License-Identifier: GPL-3.0-or-later
//! Round trips of `query-status` to one QEMU, by one client after another.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alpy::qmp::{Client, commands};
use anyhow::{Context, Result, bail, ensure};
use qapi::futures::QmpStreamTokio;
use tokio::task::JoinSet;

use crate::figure::{note, print};
use crate::measure::processor;
use crate::peer::{self, Killed};
use crate::{Extent, order};

/// How long a client is measured in one piece. QEMU's own pace changes from one moment to the next. The clients take turns, so that this
/// affects all of them alike.
const PIECE: Duration = Duration::from_millis(100);

/// How long anything may take that is no measurement.
const LIMIT: Duration = Duration::from_secs(20);

/// What a client has done in some time.
#[derive(Default)]
struct Work {
    count: u64,
    time: Duration,
    processor: Duration,
}

#[derive(Clone, Copy)]
enum Subject {
    Bare,
    Alpy,
    Qapi,
}

const SUBJECTS: [Subject; 3] = [Subject::Bare, Subject::Alpy, Subject::Qapi];

/// Measures it.
pub(crate) fn measure(extent: &Extent) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("qmp");
    let _qemu = start(&socket)?;
    if peer::python("qemu_qmp.py").is_none() {
        note("qmp: qemu.qmp is not installed, its column is missing");
    }
    for in_flight in [1, 8] {
        let case = format!("{in_flight} in flight");
        for run in 0..extent.runs {
            note(&format!("qmp: {case}, run {} of {}", run + 1, extent.runs));
            let mut work = SUBJECTS.map(|_| Work::default());
            for piece in 0..extent.size.qmp_pieces as usize {
                for index in order(SUBJECTS.len(), run + piece) {
                    let more = SUBJECTS[index].work(&socket, in_flight)?;
                    let sum = &mut work[index];
                    sum.count += more.count;
                    sum.time += more.time;
                    sum.processor += more.processor;
                }
            }
            for (subject, work) in SUBJECTS.iter().zip(work) {
                report(&case, subject.name(in_flight), &work);
            }
            if let Some(work) = qemu_qmp(&socket, in_flight, PIECE * extent.size.qmp_pieces)? {
                report(&case, "qemu.qmp (Python)", &work);
            }
        }
    }
    Ok(())
}

fn report(case: &str, subject: &str, work: &Work) {
    let count = work.count as f64;
    print(case, "round trips, 1/s", subject, count / work.time.as_secs_f64());
    print(
        case,
        "processor, us each",
        subject,
        work.processor.as_secs_f64() * 1e6 / count,
    );
}

/// A QEMU with a monitor and no machine, once it answers.
fn start(socket: &Path) -> Result<Killed> {
    let mut command = peer::program("qemu-system-x86_64");
    command
        .args([
            "-M",
            "none",
            "-nodefaults",
            "-display",
            "none",
            "-accel",
            "tcg",
            "-qmp",
        ])
        .arg(format!("unix:{},server=on,wait=off", socket.display()));
    let mut qemu = Killed(command.spawn().context("start qemu-system-x86_64")?);
    let started = Instant::now();
    while UnixStream::connect(socket).is_err() {
        if let Some(status) = qemu.0.try_wait()? {
            bail!("QEMU ended before its monitor answered: {status}");
        }
        ensure!(
            started.elapsed() < LIMIT,
            "QEMU's monitor does not answer within {LIMIT:?}"
        );
        std::thread::park_timeout(Duration::from_millis(10));
    }
    Ok(qemu)
}

impl Subject {
    fn name(self, in_flight: usize) -> &'static str {
        match self {
            Self::Bare if in_flight == 1 => "bare blocking loop",
            Self::Bare => "bare pipelined loop",
            Self::Alpy => "alpy-qmp",
            Self::Qapi => "qapi",
        }
    }

    fn work(self, socket: &Path, in_flight: usize) -> Result<Work> {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
        match self {
            Self::Bare => bare(socket, in_flight),
            Self::Alpy => runtime()?.block_on(alpy_qmp(socket, in_flight)),
            Self::Qapi => runtime()?.block_on(qapi(socket, in_flight)),
        }
    }
}

/// Times some work, which is to end at the moment that it is given.
async fn timed(work: impl AsyncFnOnce(Instant) -> Result<u64>) -> Result<Work> {
    let (start, used) = (Instant::now(), processor()?);
    let count = work(start + PIECE).await?;
    Ok(Work {
        count,
        time: start.elapsed(),
        processor: processor()? - used,
    })
}

async fn all(mut workers: JoinSet<Result<u64>>) -> Result<u64> {
    let mut count = 0;
    while let Some(worker) = workers.join_next().await {
        count += worker??;
    }
    Ok(count)
}

async fn alpy_qmp(socket: &Path, in_flight: usize) -> Result<Work> {
    let client = Client::connect(socket, LIMIT).await?;
    let worker = |client: Client, until: Instant| async move {
        let mut count = 0;
        while Instant::now() < until {
            client.execute(commands::QueryStatus {}).await?;
            count += 1;
        }
        Ok(count)
    };
    timed(async |until| {
        if in_flight == 1 {
            return worker(client.clone(), until).await;
        }
        let mut workers = JoinSet::new();
        for _ in 0..in_flight {
            workers.spawn(worker(client.clone(), until));
        }
        all(workers).await
    })
    .await
}

async fn qapi(socket: &Path, in_flight: usize) -> Result<Work> {
    let stream = QmpStreamTokio::open_uds(socket).await?.negotiate().await?;
    let (service, events) = stream.spawn_tokio();
    let service = Arc::new(service);
    let work = timed(async |until| {
        let mut workers = JoinSet::new();
        for _ in 0..in_flight {
            let service = Arc::clone(&service);
            workers.spawn(async move {
                let mut count = 0;
                while Instant::now() < until {
                    service.execute(qapi::qmp::query_status {}).await?;
                    count += 1;
                }
                Ok(count)
            });
        }
        all(workers).await
    })
    .await;
    events.abort();
    work
}

/// The limit: the bytes that alpy sends, and a look for the end of each answer, by blocking calls.
fn bare(socket: &Path, in_flight: usize) -> Result<Work> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let mut buffer = [0; 65536];
    let mut lines = |stream: &mut UnixStream| -> Result<usize> {
        loop {
            let length = stream.read(&mut buffer)?;
            ensure!(length > 0, "QEMU has closed its monitor");
            let lines = memchr::memchr_iter(b'\n', &buffer[..length]).count();
            if lines > 0 {
                return Ok(lines);
            }
        }
    };
    lines(&mut stream)?;
    stream.write_all(br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#)?;
    lines(&mut stream)?;

    let command = br#"{"execute":"query-status","id":1}"#;
    let (start, used) = (Instant::now(), processor()?);
    let until = start + PIECE;
    for _ in 0..in_flight {
        stream.write_all(command)?;
    }
    let (mut count, mut open) = (0, in_flight);
    while open > 0 {
        let answered = lines(&mut stream)?;
        count += answered as u64;
        open -= answered;
        if Instant::now() < until {
            for _ in 0..answered {
                stream.write_all(command)?;
                open += 1;
            }
        }
    }
    Ok(Work {
        count,
        time: start.elapsed(),
        processor: processor()? - used,
    })
}

/// None if it is not installed.
fn qemu_qmp(socket: &Path, in_flight: usize, time: Duration) -> Result<Option<Work>> {
    let Some(mut command) = peer::python("qemu_qmp.py") else {
        return Ok(None);
    };
    let seconds = time.as_secs_f64();
    command
        .arg(socket)
        .args([in_flight.to_string(), seconds.to_string()]);
    let result = peer::json(command)?;
    Ok(Some(Work {
        count: peer::number(&result, "count")? as u64,
        time: Duration::from_secs_f64(peer::number(&result, "seconds")?),
        processor: Duration::from_secs_f64(peer::number(&result, "cpu")?),
    }))
}
