// SPDX-License-Identifier: GPL-3.0-or-later
//! The testbed: machines on a skeleton, their life, and their end whatever happens.

mod attended;
mod builder;
mod captures;
mod changes;
mod creation;
mod dut;
mod saved;
mod wired;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use alpy_console::Console;
use alpy_docker::Engine;
use alpy_pcap::Capture;
use alpy_qemu::{Qemu, Recipe};
use alpy_qmp::Client;
use futures_util::FutureExt;
use futures_util::future::{join_all, select_all, try_join_all};
use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout};

use attended::Attended;
pub use builder::TestbedBuilder;
use captures::Ended;
pub use dut::Dut;
use wired::{Far, NicOf, Wired};

use crate::cable::{Cable, CableNic, End};
use crate::error::{Error, Overload, Result};
use crate::evidence::Evidence;
use crate::failure::{BoxError, Cause, chain};
use crate::growing::Growing;
use crate::limits::Limits;
use crate::node::Node;
use crate::panics;
use crate::report::Recorder;
use crate::run::Run;
use crate::skeleton;
use crate::step;
use crate::step::{StepTimeout, Steps};

/// How long each step of a teardown may take.
const TEARDOWN_STEP: Duration = Duration::from_secs(10);

/// How long all the nodes may take to be removed.
const TEARDOWN_NODES: Duration = Duration::from_secs(30);

/// The captures of all links, in the evidence.
const MERGED: &str = "links.pcapng";

/// How long the news may take that something has ended, behind the first effect of it.
const NEWS: Duration = Duration::from_millis(300);

/// Devices under test whose NICs are wired to the nodes of a skeleton and to each other, while a test runs.
///
/// Most testbeds have one machine. What is said of *the* machine here is about the first one; [`dut`](Self::dut) has the others.
#[derive(Debug)]
pub struct Testbed {
    run: Arc<Run>,
    duts: Vec<Dut>,
    links: Growing<Wired>,
    /// Held by whoever adds a link.
    growing: Mutex<()>,
    /// A link was added.
    grown: Notify,
    evidence: Arc<Evidence>,
    recorder: Arc<Recorder>,
    steps: Arc<Steps>,
    attended: Attended,
    until: Instant,
}

impl Testbed {
    /// A testbed for the test of this name, which is also that of its evidence directory.
    pub fn builder(test: impl Into<String>) -> TestbedBuilder {
        TestbedBuilder::new(test.into())
    }

    /// The machine of this number, counted from 0 in the order of [`TestbedBuilder::machine`].
    ///
    /// # Panics
    /// If there is no such machine, as indexing does.
    #[track_caller]
    pub fn dut(&self, machine: usize) -> &Dut {
        match self.duts.get(machine) {
            Some(dut) => dut,
            None => panic!(
                "there is no machine {machine}: the testbed has {}",
                self.duts.len()
            ),
        }
    }

    /// All machines, in their order.
    pub fn duts(&self) -> &[Dut] {
        &self.duts
    }

    /// The node of a link, counted from 0.
    ///
    /// # Panics
    /// If there is no such link, as indexing does, or if it is a direct one, without a node.
    #[track_caller]
    pub fn node(&self, link: usize) -> &Node {
        match self.link(link).node() {
            Some(node) => node,
            None => panic!("link {link} has no node: it is a direct one between two machines"),
        }
    }

    /// All nodes, in the order of the links.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.links.iter().filter_map(Wired::node)
    }

    /// The engine that the nodes run on, and applications too.
    pub fn engine(&self) -> &Engine {
        self.run.engine()
    }

    /// The value of the label [`alpy.run`](crate::RUN_LABEL) that all containers of this testbed have.
    pub fn run_id(&self) -> &str {
        self.run.id()
    }

    /// The serial console of the machine. All clones of it read from the same place.
    pub fn console(&self) -> &Console {
        self.dut(0).console()
    }

    /// The process of the machine.
    pub fn qemu(&self) -> &Qemu {
        self.dut(0).qemu()
    }

    /// The machine's monitor.
    pub fn qmp(&self) -> &Client {
        self.dut(0).qmp()
    }

    /// The evidence directory.
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// How much of the test's deadline is left, in wall time: there is more if the host kept a machine from running.
    pub fn time_left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// The capture of a link, as far as it has come. Each frame is in it as soon as it has passed, so that one can be
    /// [expected](Capture::expect) there.
    ///
    /// # Panics
    /// If there is no such link, as indexing does, or if it is one [without a capture](crate::Link::without_capture).
    #[track_caller]
    pub fn capture(&self, link: usize) -> &Capture {
        match &self.link(link).capture {
            Some(capture) => capture,
            None => panic!("link {link} has no capture: it was made without"),
        }
    }

    /// The cable of a link.
    ///
    /// # Panics
    /// If there is no such link, as indexing does.
    #[track_caller]
    pub fn cable(&self, link: usize) -> Cable<'_> {
        let wired = self.link(link);
        let nic = |of: &NicOf| CableNic {
            qmp: self.duts[of.dut].qmp(),
            machine: of.dut,
            nic: of.nic,
            gone: of.is_gone(),
        };
        let far = match &wired.far {
            Far::Node { node, tap, .. } => End::Node { node, tap },
            Far::Nic(of) => End::Nic(nic(of)),
        };
        Cable::new(link, nic(&wired.nic), far)
    }

    /// Starts the virtual CPU of each machine: from here on, the guests run. See [`Dut::start_cpu`].
    ///
    /// # Errors
    /// As [`Dut::start_cpu`].
    ///
    /// Cancel safe as [`Dut::start_cpu`] is.
    pub async fn start_cpu(&self) -> Result<()> {
        try_join_all(self.duts.iter().map(Dut::start_cpu)).await.map(drop)
    }

    /// The recipe at whose end [`start_cpu`](Self::start_cpu) leaves the machine.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.dut(0).recipe()
    }

    /// Whether the machine was restored from a saved state, and does not boot.
    pub fn is_restored(&self) -> bool {
        self.dut(0).is_restored()
    }

    /// Waits until the guest has powered the machine down and QEMU has stopped it. See [`Dut::wait_powered_down`].
    ///
    /// # Errors
    /// As [`Dut::wait_powered_down`].
    ///
    /// Cancel safe.
    pub async fn wait_powered_down(&self, within: Duration) -> Result<()> {
        self.dut(0).wait_powered_down(within).await
    }

    /// The error for a test whose measurement cannot be judged, because the host was overloaded while it was taken: see
    /// [`Dut::processor_time`]. Return it from the test's body. The test has not passed then, and has not failed either: its
    /// [`Failure`](crate::Failure) is [unjudged](crate::Failure::is_unjudged), in the report too.
    ///
    /// ```no_run
    /// # async fn example(bed: &alpy::Testbed) -> alpy::TestResult {
    /// let before = bed.dut(0).processor_time();
    /// // Measure a rate.
    /// if let (Some(before), Some(after)) = (before, bed.dut(0).processor_time()) {
    ///     let meanwhile = after.since(&before);
    ///     if meanwhile.is_starved() {
    ///         let share = 100.0 * meanwhile.share();
    ///         return Err(bed.cannot_be_judged(format!("the machine got {share:.0} % of its processor time")).into());
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn cannot_be_judged(&self, why: impl Into<String>) -> Error {
        let source = Overload { why: why.into() };
        Error::HostOverloaded { source }
    }

    #[track_caller]
    fn link(&self, link: usize) -> &Wired {
        match self.links.iter().nth(link) {
            Some(one) => one,
            None => panic!(
                "there is no link {link}: the testbed has {} links",
                self.links.iter().count()
            ),
        }
    }

    /// Runs the body of a test, until it is at its end or something else is; the people at the testbed get what they ask for meanwhile.
    async fn run_body<T, E>(
        &self,
        body: impl AsyncFnOnce(&Testbed) -> std::result::Result<T, E>,
        attend: Pin<&mut impl Future<Output = Infallible>>,
        limits: &mut Limits,
    ) -> std::result::Result<T, Cause>
    where
        E: Into<BoxError>,
    {
        panics::remember_places();
        let body = AssertUnwindSafe(self.steps.scope(Box::pin(body(self)))).catch_unwind();
        let ended = async {
            tokio::select! {
                biased;
                result = body => match result {
                    Ok(Ok(value)) => Ok(value),
                    Ok(Err(error)) => Err(Cause::of_body(error.into())),
                    Err(panic) => Err(Cause::panic(panic.as_ref())),
                },
                lost = self.lost() => Err(Cause::Lost(lost)),
                never = attend => match never {},
            }
        };
        limits.hold(Box::pin(ended)).await?
    }

    /// Waits until a machine or a node ends that nobody has told to. Cancel safe.
    async fn lost(&self) -> Error {
        loop {
            let machines = self.duts.iter().map(|dut| dut.lost().boxed());
            let nodes = self.nodes().map(|node| node.lost().boxed());
            tokio::select! {
                (lost, ..) = select_all(machines.chain(nodes)) => return lost,
                () = self.grown.notified() => {}
            }
        }
    }

    /// What may be behind a failure of the test's body.
    async fn look_around(&self) -> Vec<String> {
        let lost = timeout(NEWS, self.lost()).await.ok().map(|error| chain(&error));
        let stopped = self.duts.iter().filter(|dut| dut.qemu.is_stopped_by_signal());
        let stopped = stopped.map(|dut| format!("{} is stopped by a signal", dut.name.step("QEMU")));
        lost.into_iter().chain(stopped).collect()
    }

    /// Says of each link how many frames its tap has dropped, if it has: they are not in the capture, and no guest has seen them.
    fn dropped(&self) -> Vec<String> {
        let of_link = |wired: &Wired| {
            let Far::Node { counted, .. } = &wired.far else {
                return None;
            };
            let (link, machine) = (wired.index, wired.nic.dut);
            match counted.dropped() {
                Ok(0) => None,
                Ok(frames) => {
                    if let Some(record) = self.recorder.lock().links.get_mut(link) {
                        record.dropped = frames;
                    }
                    Some(format!(
                        "link {link}: the tap dropped {frames} frames of node {link}, because machine {machine} did not take them and the \
                         tap's queue was full; they are not in the capture"
                    ))
                }
                Err(error) => Some(format!(
                    "link {link}: how many frames its tap dropped is not known: {}",
                    chain(&error)
                )),
            }
        };
        self.links.iter().filter_map(of_link).collect()
    }

    /// Takes everything down, machines and nodes at the same time, whatever fails on the way. The steps, with the moments when they
    /// began, are shown among the frames.
    async fn tear_down(self, steps: &[(SystemTime, String)]) -> Vec<String> {
        let Self {
            run,
            duts,
            links,
            evidence,
            recorder,
            ..
        } = self;
        let (mut nodes, mut captures) = (Vec::new(), Vec::new());
        for (index, wired) in links.into_iter().enumerate() {
            // QEMU alone has the taps now, so that a tap's carrier goes with it.
            let counted = match wired.far {
                Far::Node { node, counted, .. } => {
                    nodes.push(*node);
                    Some(counted)
                }
                Far::Nic(_) => None,
            };
            // What was begun when its machine started has the machine's clock, and else one of its own.
            let clock = if wired.hot {
                duts.len() + index
            } else {
                wired.nic.dut
            };
            captures.extend(wired.capture.map(|capture| Ended {
                link: index,
                clock,
                capture,
                counted,
            }));
        }
        let machines = join_all(duts.iter().map(Dut::end));
        let nodes = async {
            match timeout(TEARDOWN_NODES, skeleton::close(nodes, &run)).await {
                Ok(closed) => closed,
                Err(_) => Err(vec![
                    StepTimeout {
                        after: TEARDOWN_NODES,
                    }
                    .into(),
                ]),
            }
        };
        let nodes = step!(target: "alpy::node", "Remove nodes", nodes);
        let (machines, nodes) = tokio::join!(machines, nodes);
        let mut errors: Vec<_> = machines.into_iter().flatten().collect();
        errors.extend(captures::complete(captures, steps.to_vec(), recorder, evidence.file(MERGED)).await);
        let nodes = nodes.err().unwrap_or_default();
        errors.extend(
            nodes
                .iter()
                .map(|error| format!("remove nodes: {}", chain(error))),
        );
        errors
    }
}

/// The first machine.
impl AsRef<Dut> for Testbed {
    fn as_ref(&self) -> &Dut {
        self.dut(0)
    }
}
