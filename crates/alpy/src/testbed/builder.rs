// SPDX-License-Identifier: GPL-3.0-or-later
//! A testbed to be, and the run of a test on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use alpy_docker::Engine;
use alpy_qemu::{Accelerator, Machine};
use tokio::time::timeout;
use tracing::{Instrument, debug, info, warn};

use super::attended::Pause;
use super::creation::Parts;
use super::{Dut, TEARDOWN_NODES, Testbed};
use crate::error::Error;
use crate::evidence::{Evidence, check_name};
use crate::failure::{BoxError, Cause, Failure, Report, chain};
use crate::limits::Limits;
use crate::link::{AnyLink, DirectLink, Link};
use crate::logging::{self, RunLog};
use crate::processor::{self, Schedules};
use crate::report::{self, Recorder, Start, Wire};
use crate::signals::Interrupts;
use crate::skeleton::Skeleton;
use crate::states::SavedStates;
use crate::step;
use crate::step::{Steps, within};

/// How long a run waits for its report. Nothing that the report is made of is read for longer than a part of this.
const REPORT: Duration = Duration::from_secs(10);

/// A testbed to be; [`run`](Self::run) makes it, runs a test on it and takes it down.
#[derive(Debug)]
pub struct TestbedBuilder {
    test: String,
    description: Option<String>,
    parts: Parts,
    evidence: Option<PathBuf>,
    deadline: Duration,
}

impl TestbedBuilder {
    pub(super) fn new(test: String) -> Self {
        let parts = Parts {
            machines: Vec::new(),
            links: Vec::new(),
            skeleton: Skeleton::builder(test.clone()),
            accelerator: None,
            states: None,
        };
        Self {
            test,
            description: None,
            parts,
            evidence: None,
            deadline: Duration::from_secs(300),
        }
    }

    /// What the test is about, for the log.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// A device under test; one more, if there is one already. Machines are counted from 0.
    pub fn machine(mut self, machine: Machine) -> Self {
        self.parts.machines.push(machine);
        self
    }

    /// One more link: the next NIC of its [machine](Link::machine), and its node.
    pub fn link(mut self, link: Link) -> Self {
        self.parts.links.push(AnyLink::ToNode(link));
        self
    }

    /// One more link: the next NIC of each of two machines, and the cable between them.
    ///
    /// ```
    /// use alpy::{DirectLink, Link, Testbed};
    /// use alpy::qemu::Machine;
    ///
    /// // node 0 - machine 0 - machine 1 - node 2
    /// let chain = Testbed::builder("chain")
    ///     .machine(Machine::new())
    ///     .machine(Machine::new())
    ///     .link(Link::new().address("192.168.0.1/24"))
    ///     .direct_link(DirectLink::between(0, 1))
    ///     .link(Link::new().machine(1).address("192.168.1.1/24"));
    /// ```
    pub fn direct_link(mut self, link: DirectLink) -> Self {
        self.parts.links.push(AnyLink::Direct(link));
        self
    }

    /// The engine to use, instead of the one that [`Engine::connect`] finds.
    pub fn engine(mut self, engine: Engine) -> Self {
        self.parts.skeleton = self.parts.skeleton.engine(engine);
        self
    }

    /// The accelerator to use, instead of the one that [`Accelerator::detect`] chooses.
    pub fn accelerator(mut self, accelerator: Accelerator) -> Self {
        self.parts.accelerator = Some(accelerator);
        self
    }

    /// Where saved states are, or that there are none, instead of what [`SavedStates::from_env`] says.
    pub fn saved_states(mut self, states: SavedStates) -> Self {
        self.parts.states = Some(states);
        self
    }

    /// An image to make nodes of, instead of alpy's own. What runs in it is alpy's own program.
    pub fn node_image(mut self, image: impl Into<String>) -> Self {
        self.parts.skeleton = self.parts.skeleton.node_image(image);
        self
    }

    /// An image to run the network helper in, instead of alpy's own, which has nothing but the helper in it.
    pub fn iproute2_image(mut self, image: impl Into<String>) -> Self {
        self.parts.skeleton = self.parts.skeleton.iproute2_image(image);
        self
    }

    /// Where the evidence directory is, instead of where [`Evidence`] says.
    pub fn evidence_base(mut self, base: impl Into<PathBuf>) -> Self {
        self.evidence = Some(base.into());
        self
    }

    /// How long the test may take, from the first container to the end of its body: 5 minutes if not set. It does not count the time for which
    /// the host kept a machine from running, up to ten times the limit ([`qemu::timer`](alpy_qemu::timer())). A step of the set-up may
    /// take half of it; a step of the body has what is left, or what [`step!`](crate::step!) gives it. The teardown comes on top
    /// and is bounded by itself.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// Looks at every value, the name of the test among them, and at the files of the machines, without touching anything. A run does so
    /// first. It blocks the thread for as long as it takes to open these files.
    ///
    /// # Errors
    /// The first that cannot be right.
    pub fn check(&self) -> crate::Result<()> {
        check_name(&self.test)?;
        self.parts.check()
    }

    /// Makes the testbed, with the machine's CPU not started yet, runs the test's body on it, and takes it down: after success and
    /// failure, a panic in the body, the deadline, and SIGINT, SIGTERM and SIGHUP, by which the process then ends. These signals are held back
    /// from before the first container until the last testbed of the process is torn down; a handler that the program had installed before
    /// gets them then. A SIGHUP that is ignored, as under nohup(1), stays ignored.
    ///
    /// At the end, a page with all that happened is in the evidence: see [`report`](crate::report).
    ///
    /// With `ALPY_PAUSE=failure` in the environment, a testbed whose test has failed is held before its teardown, as
    /// [`Testbed::hold`] does it, with `ALPY_PAUSE=always` each one.
    ///
    /// # Errors
    /// The first failure, with what is needed to see why. A teardown that does not end well, and a capture that is not complete, fail
    /// a test whose body passed.
    ///
    /// So that a failure says where a body panicked, the first run of a process puts a panic hook in front of the one that is there.
    ///
    /// Cancel safe in so far as nothing stays when the future is dropped: containers and QEMU then end in the background.
    pub async fn run<T, E>(
        self,
        body: impl AsyncFnOnce(&Testbed) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, Failure>
    where
        E: Into<BoxError>,
    {
        logging::init();
        let failed = |error| Report::new(Cause::SetUp(error)).into_failure(&self.test);
        let evidence = match &self.evidence {
            Some(base) => Evidence::create_in(base, &self.test),
            None => Evidence::create(&self.test),
        };
        let evidence = evidence.map_err(failed)?;
        let start = Start::now();
        let log = RunLog::create(&self.test, &evidence.file("debug.log"), start.instant);
        let log = log.map_err(|source| {
            failed(Error::Evidence {
                dir: evidence.dir().to_owned(),
                source,
            })
        })?;
        self.run_logged(body, Arc::new(evidence), start)
            .instrument(log.span())
            .await
    }

    /// [`run`](Self::run) on a runtime of its own, for tests that have none.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    ///
    /// # Panics
    /// Within an asynchronous context.
    pub fn run_blocking<T, E>(
        self,
        body: impl AsyncFnOnce(&Testbed) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, Failure>
    where
        E: Into<BoxError>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.run(body)),
            Err(source) => Err(Report::new(Cause::SetUp(Error::Runtime(source))).into_failure(&self.test)),
        }
    }

    async fn run_logged<T, E>(
        self,
        body: impl AsyncFnOnce(&Testbed) -> std::result::Result<T, E>,
        evidence: Arc<Evidence>,
        start: Start,
    ) -> std::result::Result<T, Failure>
    where
        E: Into<BoxError>,
    {
        let test = self.test.clone();
        if let Some(description) = &self.description {
            info!(target: "alpy::testbed", "Test description: {description}");
        }
        info!(target: "alpy::testbed", "Evidence: {}", evidence.dir().display());
        let schedules = Schedules::default();
        let (steps, teardown) = (Steps::beside(schedules.clone()), Steps::beside(schedules.clone()));
        let (steps, teardown) = (Arc::new(steps), Arc::new(teardown));
        let recorder = Recorder::begin(
            start,
            &test,
            self.description.as_deref(),
            self.deadline,
            evidence.attempt(),
        );
        let recorder = Arc::new(recorder);
        // Until this is dropped, at the end, a signal does not end the process.
        let interrupts = match Interrupts::hold() {
            Ok(interrupts) => interrupts,
            Err(source) => return Err(Report::new(Cause::SetUp(Error::Runtime(source))).into_failure(&test)),
        };
        let mut limits = Limits::new(interrupts, self.deadline, &schedules.timer());
        let run = self.run_steps(body, &evidence, &recorder, [&steps, &teardown], &mut limits);
        let result = run.await;
        {
            let mut record = recorder.lock();
            record.steps = report::steps(&[steps.records(), teardown.records()]);
            record.commands_left_out = steps.commands_left_out();
        }
        let times = schedules.now();
        recorder.processor(&times);
        let mut report = match result {
            Ok(value) => {
                let sentences = processor::sentences(&times, &[]);
                recorder.lock().processor.clone_from(&sentences);
                for sentence in sentences {
                    info!(target: "alpy::testbed", "Processor time: {sentence}");
                }
                write_report(&evidence, &recorder, None).await;
                info!(target: "alpy::testbed", "Test passed");
                return Ok(value);
            }
            Err(report) => report,
        };
        report.step = steps.where_it_is();
        report.processor = processor::sentences(&times, &report.in_failing_step);
        recorder.lock().processor.clone_from(&report.processor);
        if report.step.is_none() && !matches!(report.cause, Cause::TearDown) {
            report.after = steps.last_ended();
        }
        if matches!(report.cause, Cause::Deadline(_)) {
            report.times = steps.times();
        }
        report.evidence = Some(evidence.dir().to_owned());
        let mut failure = report.into_failure(&test);
        let wire = write_report(&evidence, &recorder, Some(&failure)).await;
        failure.say_of_the_wire(wire);
        // Whoever runs the test prints the error that it returns; this is for the evidence.
        debug!(target: "alpy::testbed", "{failure}");
        if limits.interrupt().is_some() {
            // The process is about to end by the signal, before anything else prints the failure.
            logging::say(&failure.to_string()).await;
        }
        let verdict = match failure.is_unjudged() {
            true => "Test cannot be judged",
            false => "Test failed",
        };
        info!(target: "alpy::testbed", "{verdict}");
        Err(failure)
    }

    async fn run_steps<T, E>(
        mut self,
        body: impl AsyncFnOnce(&Testbed) -> std::result::Result<T, E>,
        evidence: &Arc<Evidence>,
        recorder: &Arc<Recorder>,
        [steps, teardown_steps]: [&Arc<Steps>; 2],
        limits: &mut Limits,
    ) -> std::result::Result<T, Box<Report>>
    where
        E: Into<BoxError>,
    {
        let deadline = limits.deadline();
        if self.parts.machines.is_empty() {
            self.parts.machines.push(Machine::new());
        }
        let pause = Pause::from_env().map_err(|error| Report::new(Cause::SetUp(error)))?;
        self.parts
            .check()
            .map_err(|error| Report::new(Cause::SetUp(error)))?;
        recorder.parts(self.parts.machines.len(), &self.parts.links);
        report::begin(evidence.dir(), recorder);
        // Everything of this run has its label from the start, so that what a set-up leaves half-done is found.
        let new_run = self.parts.skeleton.new_run(Some(evidence.dir()));
        let new_run = step!(target: "alpy::docker", within: deadline.share(), "Find the engine and the images", new_run);
        let prepare = limits.hold(Box::pin(steps.scope(new_run))).await;
        let run = prepare
            .and_then(|run| run.map_err(Cause::SetUp))
            .map_err(Report::new)?;
        recorder.run(&run);
        report::begin(evidence.dir(), recorder);
        let create = self.parts.create(
            Arc::clone(&run),
            Arc::clone(evidence),
            Arc::clone(recorder),
            Arc::clone(steps),
            deadline,
        );
        let create = steps.scope(create);
        let bed = match limits
            .hold(Box::pin(create))
            .await
            .and_then(|bed| bed.map_err(Cause::SetUp))
        {
            Ok(bed) => bed,
            Err(cause) => {
                let mut report = Report::new(cause);
                let closed = within(TEARDOWN_NODES, run.close()).await;
                report.in_failing_step = steps.processor_where_it_is();
                report.teardown.extend(closed.err().map(|error| chain(&error)));
                recorder.lock().containers = run.containers();
                return Err(report);
            }
        };

        info!(target: "alpy::testbed", "Enter test environment");
        recorder.entered();
        let mut attend = Box::pin(bed.attend());
        let result = bed.run_body(body, attend.as_mut(), limits).await;
        let in_failing_step = steps.processor_where_it_is();
        recorder.left();
        info!(
            target: "alpy::testbed",
            "Exit test environment with {}",
            if result.is_ok() { "success" } else { "failure" }
        );
        let machines = bed.duts().iter().map(Dut::words).collect();
        // As long as QEMU runs.
        let dropped = bed.dropped();
        for line in &dropped {
            warn!(target: "alpy::testbed", "{line}");
        }
        let mut findings = match result {
            Ok(_) | Err(Cause::Lost(_) | Cause::Interrupt(_)) => Vec::new(),
            Err(_) => bed.look_around().await,
        };
        findings.extend(dropped);
        if pause.holds(result.is_err()) && !matches!(result, Err(Cause::Interrupt(_))) {
            let why = match &result {
                Ok(_) => format!("test {} passed (ALPY_PAUSE)", self.test),
                Err(cause) => format!("test {} failed: {cause} (ALPY_PAUSE)", self.test),
            };
            tokio::select! {
                biased;
                () = limits.interrupted() => {}
                held = bed.hold(&why) => if let Err(error) = held {
                    warn!(target: "alpy::control", "The testbed is not held: {}", chain(&error));
                },
                never = attend.as_mut() => match never {},
            }
        }
        drop(attend);
        for (machine, dut) in recorder.lock().machines.iter_mut().zip(bed.duts()) {
            machine.restored = Some(dut.is_restored());
        }
        // Their steps are apart, for they are not where the test failed.
        let teardown = teardown_steps.scope(bed.tear_down(&steps.begun())).await;
        recorder.lock().containers = run.containers();
        let cause = match result {
            Ok(value) if teardown.is_empty() => return Ok(value),
            Ok(_) => Cause::TearDown,
            Err(cause) => cause,
        };
        let mut report = Report::new(cause);
        report.in_failing_step = in_failing_step;
        report.say_last_words(machines);
        report.findings = findings;
        report.teardown = teardown;
        Err(report)
    }
}

/// Ends the record of a run and writes its report, on a thread for what blocks. Nothing fails for it.
async fn write_report(evidence: &Arc<Evidence>, recorder: &Arc<Recorder>, failure: Option<&Failure>) -> Wire {
    recorder.end(failure);
    let (evidence, recorder) = (Arc::clone(evidence), Arc::clone(recorder));
    let span = tracing::Span::current();
    let write = tokio::task::spawn_blocking(move || span.in_scope(|| report::end(evidence.dir(), &recorder)));
    match timeout(REPORT, write).await {
        Ok(Ok(wire)) => return wire,
        Ok(Err(error)) => warn!(target: "alpy::report", "Cannot write the report: {error}"),
        Err(_) => warn!(target: "alpy::report", "The report is not written within {REPORT:?}"),
    }
    Wire::default()
}
