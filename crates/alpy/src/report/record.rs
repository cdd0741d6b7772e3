// SPDX-License-Identifier: GPL-3.0-or-later
//! `run.json`: what a run knows of itself, for its report and for other programs.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use alpy_netns::MacAddr;
use alpy_qemu::ProcessorTime;
use serde::{Deserialize, Serialize};

use crate::evidence::{attempts_of, check_name};
use crate::failure::Failure;
use crate::link::AnyLink;
use crate::run::Run;
use crate::step::{StepEnd, StepRecord};

/// The version of the format. Fields may be added to it; whoever reads it takes no offence at those that it does not know.
pub(crate) const FORMAT: u32 = 1;

/// The most lines of the console, events and so on that are kept of one kind.
const MOST: usize = 10_000;

/// A run. Moments are seconds since 1970.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    pub(crate) format: u32,
    pub(crate) test: String,
    pub(crate) description: Option<String>,
    pub(crate) verdict: Verdict,
    /// Which attempt it is, from 1, and of what: attempts of one call of a test runner have the same.
    pub(crate) attempt: u32,
    pub(crate) attempts_of: Option<String>,
    /// Of alpy.
    pub(crate) version: String,
    /// Of the process that runs it.
    pub(crate) pid: Option<u32>,
    /// What its containers have as the label `alpy.run`, and where its engine is: nothing before the engine was found.
    pub(crate) id: Option<String>,
    pub(crate) engine: Option<String>,
    pub(crate) began: f64,
    /// When the body began, and when it ended.
    pub(crate) entered: Option<f64>,
    pub(crate) left: Option<f64>,
    pub(crate) ended: Option<f64>,
    /// In seconds.
    pub(crate) deadline: f64,
    pub(crate) failure: Option<FailureRecord>,
    /// A sentence for each machine: what share of the processor time that it was ready to use it got.
    pub(crate) processor: Vec<String>,
    pub(crate) steps: Vec<Step>,
    /// The number of guest commands beyond the limit, which are not among the steps.
    pub(crate) commands_left_out: usize,
    pub(crate) machines: Vec<Machine>,
    pub(crate) links: Vec<Link>,
    pub(crate) containers: Vec<Container>,
    pub(crate) files: Vec<File>,
}

impl Record {
    /// Reads the text of a `run.json`. Whoever wrote it cannot name a file outside of the evidence directory: what becomes a part of a path
    /// or the name of a container is checked here.
    pub(crate) fn parse(text: &str) -> io::Result<Self> {
        let record: Self = serde_json::from_str(text)?;
        if !(1..=FORMAT).contains(&record.format) {
            return Err(io::Error::other(format!(
                "run.json is of format {}",
                record.format
            )));
        }
        record.check()?;
        Ok(record)
    }

    fn check(&self) -> io::Result<()> {
        let must = |is_right: bool, field: &str, value: &str, what: &str| match is_right {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("run.json: {field} is {value:?}, which is not {what}"),
            )),
        };
        const FILE: &str = "a single file name";
        must(
            check_name(&self.test).is_ok(),
            "test",
            &self.test,
            "the name of a test",
        )?;
        if let Some(id) = &self.id {
            must(is_id(id), "id", id, "the id of a run")?;
        }
        if let Some(engine) = &self.engine {
            must(
                engine.starts_with("unix:///"),
                "engine",
                engine,
                "the address of a unix socket",
            )?;
        }
        for (index, machine) in self.machines.iter().enumerate() {
            let folder = &machine.folder;
            let is_right = folder.is_empty() || is_file_name(folder);
            must(is_right, &format!("machines[{index}].folder"), folder, FILE)?;
        }
        for (index, link) in self.links.iter().enumerate() {
            let capture = &link.capture;
            must(
                is_file_name(capture),
                &format!("links[{index}].capture"),
                capture,
                FILE,
            )?;
        }
        for (index, container) in self.containers.iter().enumerate() {
            let name = &container.name;
            must(
                is_file_name(name),
                &format!("containers[{index}].name"),
                name,
                FILE,
            )?;
        }
        for (index, file) in self.files.iter().enumerate() {
            let is_right = file.name.split('/').all(is_file_name);
            must(
                is_right,
                &format!("files[{index}].name"),
                &file.name,
                "a path below the directory",
            )?;
        }
        Ok(())
    }
}

/// Whether a text is one normal component of a path: no `..`, no slash, nothing that the kernel refuses.
pub(crate) fn is_file_name(text: &str) -> bool {
    let mut components = Path::new(text).components();
    // `a/` and `a/.` are one component too.
    let is_one = components.next() == Some(Component::Normal(text.as_ref())) && components.next().is_none();
    is_one && !text.contains('\0')
}

/// Whether a text has the form of a run's id.
fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.bytes().all(plain)
}

/// How it went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// It goes on, or its process was killed.
    #[default]
    UnderWay,
    Passed,
    Failed,
    /// What it measured cannot be judged: the host was overloaded.
    Unjudged,
}

/// Why a test did not pass: the parts of [`Failure`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FailureRecord {
    /// `set-up`, `body`, `unjudged`, `lost`, `panic`, `deadline`, `signal` or `teardown`.
    pub(crate) kind: String,
    pub(crate) cause: String,
    pub(crate) step: Option<String>,
    /// The last step that had ended, if none was under way.
    pub(crate) after: Option<String>,
    pub(crate) findings: Vec<String>,
    pub(crate) times: Vec<String>,
    pub(crate) machines: Vec<Words>,
    pub(crate) teardown: Vec<String>,
}

impl FailureRecord {
    /// Whether the cause names this container, whose name is the end of the one that the engine knows.
    pub(crate) fn is_about(&self, container: &str) -> bool {
        let name = format!("-{container}");
        let texts = std::iter::once(&self.cause).chain(&self.findings);
        let mut after =
            texts.flat_map(|text| text.match_indices(&name).map(|(at, _)| &text[at + name.len()..]));
        let is_end =
            |rest: &str| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || "-_.".contains(next));
        after.any(is_end)
    }
}

/// The last words of a machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Words {
    pub(crate) console: Vec<String>,
    pub(crate) events: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Step {
    pub(crate) text: String,
    pub(crate) began: f64,
    /// Nothing if it had not ended.
    pub(crate) seconds: Option<f64>,
    pub(crate) outcome: Outcome,
    /// How many steps it is within.
    pub(crate) depth: usize,
    /// Whether it is a command of a guest's shell, and its exit code if it has one.
    pub(crate) command: bool,
    pub(crate) exit_code: Option<i32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    #[default]
    UnderWay,
    Done,
    Failed,
    /// It was given up because something else had failed, or its time was over.
    Cancelled,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Machine {
    /// Where its files are: the evidence directory if it is empty, else a folder in it.
    pub(crate) folder: String,
    pub(crate) restored: Option<bool>,
    /// In seconds: how long its QEMU ran on processors, how long it waited for one, all threads together, and for how much wall time the
    /// machine did not run for that reason. Nothing where the kernel does not tell.
    pub(crate) ran: Option<f64>,
    pub(crate) waited: Option<f64>,
    pub(crate) starved: Option<f64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Link {
    pub(crate) capture: String,
    /// Of a direct link both are machines, else the first one is a node.
    pub(crate) ends: Vec<End>,
    /// It was plugged in while the machine ran.
    pub(crate) hot: bool,
    /// By how many seconds the real time is ahead of that of the packets.
    pub(crate) clock_ahead: Option<f64>,
    /// How many frames of the node the tap has dropped, because the machine did not take them.
    pub(crate) dropped: u64,
    pub(crate) marks: Vec<Mark>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct End {
    pub(crate) node: Option<usize>,
    pub(crate) machine: Option<usize>,
    pub(crate) mac: Option<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) gateways: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) made: f64,
}

/// A container, by the name that its files in `containers/` have.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    /// When it was asked for. It starts later.
    pub(crate) asked: f64,
    pub(crate) ended: Option<f64>,
    /// Where its output was at which moments: bytes, and seconds.
    pub(crate) stdout: Vec<(u64, f64)>,
    pub(crate) stderr: Vec<(u64, f64)>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// The moment when a run began. All times for people count from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) instant: Instant,
    pub(crate) moment: SystemTime,
}

impl Start {
    pub(crate) fn now() -> Self {
        Self {
            instant: Instant::now(),
            moment: SystemTime::now(),
        }
    }
}

impl Default for Start {
    fn default() -> Self {
        Self::now()
    }
}

/// The record of a run while it goes on.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    start: Start,
    record: Mutex<Record>,
}

impl Recorder {
    /// Of a run that begins.
    pub(crate) fn begin(
        start: Start,
        test: &str,
        description: Option<&str>,
        deadline: Duration,
        attempt: u32,
    ) -> Self {
        let record = Record {
            format: FORMAT,
            test: test.to_owned(),
            description: description.map(str::to_owned),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            attempt,
            attempts_of: Some(attempts_of()),
            pid: Some(std::process::id()),
            began: seconds(start.moment),
            deadline: deadline.as_secs_f64(),
            ..Record::default()
        };
        Self {
            start,
            record: Mutex::new(record),
        }
    }

    /// When the run began.
    pub(crate) fn start(&self) -> Start {
        self.start
    }

    /// The record as it is, to be looked at or added to.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which run it is.
    pub(crate) fn run(&self, run: &Run) {
        let mut record = self.lock();
        record.id = Some(run.id().to_owned());
        record.engine = Some(run.engine().info().address.clone());
    }

    /// What the testbed is made of.
    pub(crate) fn parts(&self, machines: usize, links: &[AnyLink]) {
        let mut record = self.lock();
        record.machines = (0..machines).map(Machine::of).collect();
        record.links = links
            .iter()
            .enumerate()
            .map(|(index, link)| Link::of(index, link, false))
            .collect();
    }

    /// A link that came while the test ran.
    pub(crate) fn hot_plugged(&self, index: usize, link: &AnyLink) {
        self.lock().links.push(Link::of(index, link, true));
    }

    /// The processor time of each machine.
    pub(crate) fn processor(&self, times: &[Option<ProcessorTime>]) {
        for (machine, time) in self.lock().machines.iter_mut().zip(times) {
            let seconds =
                |of: fn(&ProcessorTime) -> Duration| time.as_ref().map(|time| of(time).as_secs_f64());
            machine.ran = seconds(ProcessorTime::ran);
            machine.waited = seconds(ProcessorTime::waited);
            machine.starved = seconds(ProcessorTime::starved);
        }
    }

    /// The body begins.
    pub(crate) fn entered(&self) {
        self.lock().entered = Some(seconds(SystemTime::now()));
    }

    /// The body is at its end.
    pub(crate) fn left(&self) {
        self.lock().left = Some(seconds(SystemTime::now()));
    }

    /// The run is at its end.
    pub(crate) fn end(&self, failure: Option<&Failure>) {
        let mut record = self.lock();
        record.ended = Some(seconds(SystemTime::now()));
        record.verdict = match failure {
            None => Verdict::Passed,
            Some(failure) if failure.is_unjudged() => Verdict::Unjudged,
            Some(_) => Verdict::Failed,
        };
        record.failure = failure.map(Failure::record);
    }
}

impl Machine {
    fn of(index: usize) -> Self {
        Self {
            folder: match index {
                0 => String::new(),
                _ => format!("machine{index}"),
            },
            ..Self::default()
        }
    }
}

impl Link {
    fn of(index: usize, link: &AnyLink, hot: bool) -> Self {
        // What is wrong with an address is said elsewhere.
        let macs = link.macs(index).unwrap_or_default();
        let mut ends: Vec<_> = link.machines().into_iter().map(End::machine).collect();
        for (end, mac) in ends.iter_mut().zip(macs) {
            end.mac = MacAddr::new(mac).ok().map(|mac| mac.to_string());
        }
        if let AnyLink::ToNode(link) = link {
            let node = End {
                node: Some(index),
                mac: link.wanted_node_mac().map(str::to_lowercase),
                addresses: link.addresses().to_vec(),
                gateways: link.gateways().to_vec(),
                ..End::default()
            };
            ends.insert(0, node);
        }
        Self {
            capture: format!("link{index}.pcap"),
            ends,
            hot,
            ..Self::default()
        }
    }
}

impl End {
    fn machine(index: usize) -> Self {
        Self {
            machine: Some(index),
            ..Self::default()
        }
    }
}

/// The steps of the lists, one list after another. Within a list, each step is followed by the steps within it, in the order of their begins.
pub(crate) fn steps(lists: &[Vec<StepRecord>]) -> Vec<Step> {
    let mut all = Vec::new();
    for list in lists {
        let mut within: BTreeMap<Option<u64>, Vec<&StepRecord>> = BTreeMap::new();
        let known: BTreeSet<u64> = list.iter().map(|step| step.number).collect();
        for step in list.iter().take(MOST) {
            let outer = step.within.filter(|outer| known.contains(outer));
            within.entry(outer).or_default().push(step);
        }
        // A stack of the steps still to add; the next one is the last.
        let mut next = Vec::new();
        let mut enter = |outer: Option<u64>, depth: usize, next: &mut Vec<_>| {
            let steps = within.remove(&outer).unwrap_or_default();
            next.extend(steps.into_iter().rev().map(|step| (step, depth)));
        };
        enter(None, 0, &mut next);
        while let Some((step, depth)) = next.pop() {
            all.push(Step::of(step, depth));
            enter(Some(step.number), depth + 1, &mut next);
        }
    }
    all
}

impl Step {
    fn of(step: &StepRecord, depth: usize) -> Self {
        Self {
            text: step.text.clone(),
            began: seconds(step.began),
            seconds: step.ended.map(|(took, _)| took.as_secs_f64()),
            outcome: match step.ended {
                None => Outcome::UnderWay,
                Some((_, StepEnd::Done)) => Outcome::Done,
                Some((_, StepEnd::Failed)) => Outcome::Failed,
                Some((_, StepEnd::Cancelled)) => Outcome::Cancelled,
            },
            depth,
            command: step.is_command,
            exit_code: step.exit_code,
        }
    }
}

/// A moment as seconds since 1970.
pub(crate) fn seconds(moment: SystemTime) -> f64 {
    moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

#[cfg(test)]
mod tests;
