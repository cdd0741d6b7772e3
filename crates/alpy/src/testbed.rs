// SPDX-License-Identifier: GPL-3.0-or-later
//! The testbed: a machine on a skeleton, its life, and its end whatever happens.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use alpy_console::Console;
use alpy_docker::Engine;
use alpy_pcap::Capture;
use alpy_qemu::{Accelerator, Machine, Nic, Options, Qemu};
use alpy_qmp::Client;
use futures_util::FutureExt;
use futures_util::future::select_all;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{Instrument, debug, error, info};

use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::failure::{BoxError, Cause, Failure, Report, chain};
use crate::link::Link;
use crate::logging::{self, RunLog};
use crate::node::Node;
use crate::run::Run;
use crate::signals::Interrupts;
use crate::skeleton::{Skeleton, SkeletonBuilder};
use crate::step;
use crate::step::{StepTimeout, Steps};

/// How long each step of a teardown may take.
const TEARDOWN_STEP: Duration = Duration::from_secs(10);

/// How long all the nodes may take to be removed.
const TEARDOWN_NODES: Duration = Duration::from_secs(30);

/// How long the news may take that something has ended, behind the first effect of it.
const NEWS: Duration = Duration::from_millis(300);

/// How much of the console and of QEMU's events an error shows.
const CONSOLE_LINES: usize = 30;
const EVENTS: usize = 10;

/// A device under test whose NICs are wired to the nodes of a skeleton, while a test runs.
#[derive(Debug)]
pub struct Testbed {
    skeleton: Skeleton,
    qemu: Qemu,
    console: Console,
    evidence: Arc<Evidence>,
    until: Instant,
}

/// A testbed to be; [`run`](Self::run) makes it, runs a test on it and takes it down.
#[derive(Debug)]
pub struct TestbedBuilder {
    test: String,
    description: Option<String>,
    machine: Machine,
    links: Vec<Link>,
    skeleton: SkeletonBuilder,
    accelerator: Option<Accelerator>,
    deadline: Duration,
}

impl Testbed {
    /// A testbed for the test of this name, which is also that of its evidence directory.
    pub fn builder(test: impl Into<String>) -> TestbedBuilder {
        let test = test.into();
        TestbedBuilder {
            skeleton: Skeleton::builder(test.clone()),
            test,
            description: None,
            machine: Machine::new(),
            links: Vec::new(),
            accelerator: None,
            deadline: Duration::from_secs(300),
        }
    }

    /// The node of a link, counted from 0.
    ///
    /// # Panics
    /// If there is no such link, as indexing does.
    pub fn node(&self, link: usize) -> &Node {
        let nodes = self.skeleton.nodes();
        nodes
            .get(link)
            .unwrap_or_else(|| panic!("there is no link {link}: the testbed has {} links", nodes.len()))
    }

    /// All nodes, in the order of the links.
    pub fn nodes(&self) -> &[Node] {
        self.skeleton.nodes()
    }

    /// The engine that the nodes run on, and applications too.
    pub fn engine(&self) -> &Engine {
        self.skeleton.engine()
    }

    /// The value of the label [`alpy.run`](crate::RUN_LABEL) that all containers of this testbed have.
    pub fn run_id(&self) -> &str {
        self.skeleton.run_id()
    }

    /// The serial console. All clones of it read from the same place.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The process of the machine.
    pub fn qemu(&self) -> &Qemu {
        &self.qemu
    }

    /// The machine's monitor.
    pub fn qmp(&self) -> &Client {
        self.qemu.qmp()
    }

    /// The evidence directory.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// How much of the test's deadline is left.
    pub fn time_left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// The capture of a link, as far as it has come. Each frame is in it as soon as it has passed.
    ///
    /// # Errors
    /// There is no such link, or the file cannot be read.
    pub fn capture(&self, link: usize) -> Result<Capture> {
        Ok(Capture::open(self.evidence.file(capture_name(link)))?)
    }

    /// Starts the virtual CPU: from here on, the guest runs.
    ///
    /// # Errors
    /// QEMU does not answer.
    ///
    /// Cancel safe: the CPU is then running or not.
    pub async fn start_cpu(&self) -> Result<()> {
        step!(target: "alpy::qemu", "Start virtual CPU", self.qemu.start_cpu()).await?;
        Ok(())
    }

    /// Waits until the guest has powered the machine down and QEMU has stopped it.
    ///
    /// # Errors
    /// The guest resets instead, QEMU ends, or the time is up.
    ///
    /// Cancel safe.
    pub async fn wait_powered_down(&self, within: Duration) -> Result<()> {
        let until = Instant::now() + within;
        let down = self.qemu.wait_powered_down(within);
        step!(target: "alpy::qemu", "Wait until the VM is powered down", down).await?;
        let stopped = self
            .qemu
            .wait_stopped(until.saturating_duration_since(Instant::now()));
        step!(target: "alpy::qemu", "Wait until the VM is stopped", stopped).await?;
        Ok(())
    }

    async fn create(
        builder: TestbedBuilder,
        run: Arc<Run>,
        evidence: Arc<Evidence>,
        deadline: Deadline,
    ) -> Result<Self> {
        let TestbedBuilder {
            machine,
            links,
            skeleton,
            accelerator,
            ..
        } = builder;
        let (skeleton, taps) = skeleton.start_in(run, deadline.share()).await?;
        let nic = |(index, (tap, link)): (usize, (_, &Link))| {
            Ok(Nic::new(alpy_qemu::Tap::Descriptor(tap))
                .mac(link.nic_mac(index)?)
                .capture(evidence.file(capture_name(index))))
        };
        let nics = taps
            .into_iter()
            .zip(&links)
            .enumerate()
            .map(nic)
            .collect::<Result<Vec<_>>>()?;
        let accelerator = match accelerator {
            Some(accelerator) => accelerator,
            None => Accelerator::detect(machine.program_path()).await?,
        };
        info!(target: "alpy::qemu", "Accelerator: {} ({})", accelerator.name(), accelerator.reason());
        let options = Options::new().evidence(evidence.dir()).accelerator(accelerator);
        let start = async { Ok::<_, Error>(Qemu::start(&machine, nics, options).await?) };
        let mut qemu = step!(target: "alpy::qemu", within: deadline.share(), "Start QEMU", start).await?;
        let connect = async {
            let stream = qemu.take_console().expect("nobody has taken it yet");
            Console::builder().transcript(evidence.dir()).start(stream)
        };
        let console = step!(target: "alpy::console", "Connect to console", connect).await?;
        Ok(Self {
            skeleton,
            qemu,
            console,
            evidence,
            until: deadline.until,
        })
    }

    /// Waits until the machine or a node ends that nobody has told to. Cancel safe.
    async fn lost(&self) -> Error {
        let machine = async { self.qemu.unexpected_end().await.into() };
        let nodes = self.nodes().iter().map(|node| node.lost().boxed());
        select_all([machine.boxed()].into_iter().chain(nodes)).await.0
    }

    /// What may be behind a failure of the test's body.
    async fn look_around(&self) -> Vec<String> {
        let lost = timeout(NEWS, self.lost()).await.ok().map(|error| chain(&error));
        let stopped = self.qemu.is_stopped_by_signal();
        let stopped = stopped.then(|| "QEMU is stopped by a signal".to_owned());
        lost.into_iter().chain(stopped).collect()
    }

    /// Takes everything down, in reverse order, whatever fails on the way.
    async fn tear_down(self) -> Vec<String> {
        let mut errors = Vec::new();
        let Self {
            skeleton,
            mut qemu,
            console,
            evidence: _evidence,
            until: _,
        } = self;
        if let Err(error) = step!(target: "alpy::qemu", "Quit QEMU", qemu.quit(TEARDOWN_STEP)).await {
            errors.push(format!("quit QEMU: {}", chain(&error)));
        }
        if let Err(error) =
            step!(target: "alpy::console", "Close console", console.close(TEARDOWN_STEP)).await
        {
            errors.push(format!("close console: {}", chain(&error)));
        }
        errors.extend(qemu.incomplete_captures().iter().map(|file| {
            format!(
                "capture {} is not complete: QEMU could not write to it",
                file.display()
            )
        }));
        let removed = async {
            match timeout(TEARDOWN_NODES, skeleton.close()).await {
                Ok(errors) if errors.is_empty() => Ok(()),
                Ok(errors) => Err(errors),
                Err(_) => Err(vec![
                    StepTimeout {
                        after: TEARDOWN_NODES,
                    }
                    .into(),
                ]),
            }
        };
        if let Err(all) = step!(target: "alpy::node", "Remove nodes", removed).await {
            errors.extend(all.iter().map(|error| format!("remove nodes: {}", chain(error))));
        }
        errors
    }
}

impl TestbedBuilder {
    /// What the test is about, for the log.
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }

    /// The device under test.
    pub fn machine(mut self, machine: Machine) -> Self {
        self.machine = machine;
        self
    }

    /// One more link: the next NIC of the machine, and its node.
    pub fn link(mut self, link: Link) -> Self {
        self.skeleton = self.skeleton.link(link.clone());
        self.links.push(link);
        self
    }

    /// The engine to use, instead of the one that [`Engine::connect`] finds.
    pub fn engine(mut self, engine: Engine) -> Self {
        self.skeleton = self.skeleton.engine(engine);
        self
    }

    /// The accelerator to use, instead of the one that [`Accelerator::detect`] chooses.
    pub fn accelerator(mut self, accelerator: Accelerator) -> Self {
        self.accelerator = Some(accelerator);
        self
    }

    /// An image with `cat` in it to make nodes of, instead of alpy's own.
    pub fn node_image(mut self, image: impl Into<String>) -> Self {
        self.skeleton = self.skeleton.node_image(image);
        self
    }

    /// An image to run the network helper in, instead of alpy's own, which has nothing but the helper in it.
    pub fn iproute2_image(mut self, image: impl Into<String>) -> Self {
        self.skeleton = self.skeleton.iproute2_image(image);
        self
    }

    /// How long the test may take, from the first container to the end of its body: 5 minutes if not set. A step of the set-up may
    /// take half of it; a step of the body has what is left, or what [`step!`](crate::step!) gives it. The teardown comes on top
    /// and is bounded by itself.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.deadline = limit;
        self
    }

    /// Makes the testbed, with the machine's CPU not started yet, runs the test's body on it, and takes it down: after success and
    /// failure, a panic in the body, the deadline, and SIGINT, SIGTERM and SIGHUP, by which the process then ends.
    ///
    /// # Errors
    /// The first failure, with what is needed to see why. A teardown that does not end well, and a capture that is not complete, fail
    /// a test whose body passed.
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
        let evidence = Evidence::create(&self.test).map_err(failed)?;
        let log = RunLog::create(&self.test, &evidence.file("debug.log")).map_err(|source| {
            failed(Error::Evidence {
                dir: evidence.dir().to_owned(),
                source,
            })
        })?;
        self.run_logged(body, Arc::new(evidence))
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
    ) -> std::result::Result<T, Failure>
    where
        E: Into<BoxError>,
    {
        let test = self.test.clone();
        if let Some(description) = &self.description {
            info!(target: "alpy::testbed", "Test description: {description}");
        }
        info!(target: "alpy::testbed", "Evidence: {}", evidence.dir().display());
        let steps = Arc::new(Steps::default());
        // Until this is dropped, at the end, a signal does not end the process.
        let interrupts = match Interrupts::hold() {
            Ok(interrupts) => interrupts,
            Err(source) => return Err(Report::new(Cause::SetUp(Error::Runtime(source))).into_failure(&test)),
        };
        let mut limits = Limits {
            interrupts,
            deadline: Deadline {
                limit: self.deadline,
                until: Instant::now() + self.deadline,
            },
        };
        let mut report = match self.run_steps(body, &evidence, &steps, &mut limits).await {
            Ok(value) => {
                info!(target: "alpy::testbed", "Test passed");
                return Ok(value);
            }
            Err(report) => report,
        };
        report.step = steps.where_it_is();
        if matches!(report.cause, Cause::Deadline(_)) {
            report.times = steps.times();
        }
        report.evidence = Some(evidence.dir().to_owned());
        let interrupted = matches!(report.cause, Cause::Interrupt(_));
        let failure = report.into_failure(&test);
        if interrupted {
            // The process is about to end by the signal: nobody else will say it.
            error!(target: "alpy::testbed", "{failure}");
        } else {
            // Whoever runs the test prints the error that it returns; this is for the evidence.
            debug!(target: "alpy::testbed", "{failure}");
        }
        info!(target: "alpy::testbed", "Test failed");
        Err(failure)
    }

    async fn run_steps<T, E>(
        self,
        body: impl AsyncFnOnce(&Testbed) -> std::result::Result<T, E>,
        evidence: &Arc<Evidence>,
        steps: &Arc<Steps>,
        limits: &mut Limits,
    ) -> std::result::Result<T, Box<Report>>
    where
        E: Into<BoxError>,
    {
        let deadline = limits.deadline;
        // Everything of this run has its label from the start, so that what a set-up leaves half-done is found.
        let new_run = self.skeleton.new_run(Some(evidence.dir()));
        let new_run = step!(target: "alpy::docker", within: deadline.share(), "Find the engine and the images", new_run);
        let prepare = limits.hold(Box::pin(steps.scope(new_run))).await;
        let run = prepare
            .and_then(|run| run.map_err(Cause::SetUp))
            .map_err(Report::new)?;
        let create = steps.scope(Testbed::create(
            self,
            Arc::clone(&run),
            Arc::clone(evidence),
            deadline,
        ));
        let bed = match limits
            .hold(Box::pin(create))
            .await
            .and_then(|bed| bed.map_err(Cause::SetUp))
        {
            Ok(bed) => bed,
            Err(cause) => {
                let mut report = Report::new(cause);
                report
                    .teardown
                    .extend(run.close().await.err().map(|error| chain(&error)));
                return Err(report);
            }
        };

        info!(target: "alpy::testbed", "Enter test environment");
        let body = AssertUnwindSafe(steps.scope(Box::pin(body(&bed)))).catch_unwind();
        let body = async {
            tokio::select! {
                biased;
                result = body => Ok(result),
                lost = bed.lost() => Err(lost),
            }
        };
        let result = match limits.hold(Box::pin(body)).await {
            Ok(Ok(Ok(Ok(value)))) => Ok(value),
            Ok(Ok(Ok(Err(error)))) => Err(Cause::Body(error.into())),
            Ok(Ok(Err(panic))) => Err(Cause::panic(panic.as_ref())),
            Ok(Err(lost)) => Err(Cause::Lost(lost)),
            Err(cause) => Err(cause),
        };
        info!(
            target: "alpy::testbed",
            "Exit test environment with {}",
            if result.is_ok() { "success" } else { "failure" }
        );
        let console = bed.console.tail(CONSOLE_LINES);
        let events = bed.qmp().recent_events(EVENTS);
        let findings = match result {
            Ok(_) | Err(Cause::Lost(_) | Cause::Interrupt(_)) => Vec::new(),
            Err(_) => bed.look_around().await,
        };
        let teardown = bed.tear_down().await;
        let cause = match result {
            Ok(value) if teardown.is_empty() => return Ok(value),
            Ok(_) => Cause::TearDown,
            Err(cause) => cause,
        };
        let mut report = Report::new(cause);
        report.console = console.lines().map(str::to_owned).collect();
        report.events = events.iter().map(ToString::to_string).collect();
        report.findings = findings;
        report.teardown = teardown;
        Err(report)
    }
}

/// What a test may run against: its deadline, and a signal.
struct Limits {
    interrupts: Interrupts,
    deadline: Deadline,
}

#[derive(Clone, Copy)]
struct Deadline {
    limit: Duration,
    until: Instant,
}

impl Deadline {
    /// What a step of the set-up may take.
    fn share(self) -> Duration {
        self.limit / 2
    }
}

impl Limits {
    async fn hold<F: Future>(&mut self, future: Pin<Box<F>>) -> std::result::Result<F::Output, Cause> {
        tokio::select! {
            signal = self.interrupts.next() => Err(Cause::Interrupt(signal)),
            result = timeout_at(self.deadline.until, future) => {
                result.map_err(|_| Cause::Deadline(self.deadline.limit))
            }
        }
    }
}

fn capture_name(link: usize) -> PathBuf {
    format!("link{link}.pcap").into()
}
