// SPDX-License-Identifier: GPL-3.0-or-later
//! The testbed: a machine on a skeleton, its life, and its end whatever happens.

mod builder;
mod completeness;
mod saved;

use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use alpy_console::Console;
use alpy_docker::Engine;
use alpy_pcap::{Capture, Merge};
use alpy_qemu::{Accelerator, Machine, Nic, Options, Qemu, Recipe};
use alpy_qmp::Client;
use futures_util::FutureExt;
use futures_util::future::select_all;
use tokio::time::{Instant, timeout};
use tracing::info;

pub use builder::TestbedBuilder;
use completeness::Completeness;

use crate::cable::{Cable, CableEnd};
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::failure::{BoxError, Cause, chain};
use crate::helper::Helper;
use crate::limits::{Deadline, Limits};
use crate::link::Link;
use crate::node::Node;
use crate::run::Run;
use crate::skeleton::{self, Skeleton, SkeletonBuilder};
use crate::states::SavedStates;
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

/// A device under test whose NICs are wired to the nodes of a skeleton, while a test runs.
#[derive(Debug)]
pub struct Testbed {
    skeleton: Skeleton,
    qemu: Qemu,
    console: Console,
    evidence: Arc<Evidence>,
    captures: Vec<Capture>,
    /// To pull cables with. QEMU has them too.
    taps: Vec<OwnedFd>,
    completeness: Completeness,
    recipe: Option<Recipe>,
    restored: bool,
    until: Instant,
}

/// What it is made of.
#[derive(Debug)]
struct Parts {
    machine: Machine,
    links: Vec<Link>,
    skeleton: SkeletonBuilder,
    accelerator: Option<Accelerator>,
    states: Option<SavedStates>,
}

impl Testbed {
    /// A testbed for the test of this name, which is also that of its evidence directory.
    pub fn builder(test: impl Into<String>) -> TestbedBuilder {
        TestbedBuilder::new(test.into())
    }

    /// The node of a link, counted from 0.
    ///
    /// # Panics
    /// If there is no such link, as indexing does.
    #[track_caller]
    pub fn node(&self, link: usize) -> &Node {
        of_link(self.skeleton.nodes(), link)
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

    /// The capture of a link, as far as it has come. Each frame is in it as soon as it has passed, so that one can be
    /// [expected](Capture::expect) there.
    ///
    /// # Panics
    /// If there is no such link, as indexing does.
    #[track_caller]
    pub fn capture(&self, link: usize) -> &Capture {
        of_link(&self.captures, link)
    }

    /// The cable of a link.
    ///
    /// # Panics
    /// If there is no such link, as indexing does.
    #[track_caller]
    pub fn cable(&self, link: usize) -> Cable<'_> {
        Cable::new(link, of_link(&self.taps, link), self.node(link), self.qmp())
    }

    /// Starts the virtual CPU: from here on, the guest runs.
    ///
    /// A machine with a [recipe](Machine::saved_state) is at the end of it when this returns, with all read that the recipe has waited for: it
    /// was restored there, and has the time and random numbers of its own, or it has booted.
    ///
    /// # Errors
    /// QEMU does not answer; the guest does not do what the recipe says.
    ///
    /// Cancel safe without a recipe: the CPU is then running or not. With one, the guest may be anywhere.
    pub async fn start_cpu(&self) -> Result<()> {
        step!(target: "alpy::qemu", "Start virtual CPU", self.qemu.start_cpu()).await?;
        match &self.recipe {
            None => Ok(()),
            Some(recipe) if self.restored => {
                let wake = saved::wake(recipe, &self.console);
                step!(target: "alpy::states", "Wake the restored guest", wake).await
            }
            Some(recipe) => {
                let follow = saved::follow(recipe, &self.console);
                step!(target: "alpy::states", format!("Boot to {}", recipe.name()), follow).await
            }
        }
    }

    /// The recipe at whose end [`start_cpu`](Self::start_cpu) leaves the machine.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.recipe.as_ref()
    }

    /// Whether the machine was restored from a saved state, and does not boot.
    pub fn is_restored(&self) -> bool {
        self.restored
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

    /// Makes it, under the labels of a run.
    async fn create(
        parts: Parts,
        run: Arc<Run>,
        evidence: Arc<Evidence>,
        deadline: Deadline,
    ) -> Result<Self> {
        let Parts {
            machine,
            links,
            skeleton,
            accelerator,
            states,
        } = parts;
        let states = match states {
            _ if links.iter().any(Link::is_unplugged) => SavedStates::off(),
            Some(states) => states,
            None => SavedStates::from_env()?,
        };
        let (skeleton, taps, helper) = skeleton.start_in(Arc::clone(&run), deadline.share()).await?;
        let choose = async {
            Ok::<_, Error>(match accelerator {
                Some(accelerator) => accelerator,
                None => Accelerator::detect(machine.program_path()).await?,
            })
        };
        let accelerator =
            step!(target: "alpy::qemu", within: deadline.share(), "Choose the accelerator", choose).await?;
        info!(target: "alpy::qemu", "Accelerator: {} ({})", accelerator.name(), accelerator.reason());
        let macs = links
            .iter()
            .enumerate()
            .map(|(index, link)| link.nic_mac(index))
            .collect::<Result<Vec<_>>>()?;
        let builder = saved::Builder {
            machine: &machine,
            macs: &macs,
            accelerator: &accelerator,
            run: &run,
            evidence: &evidence,
            share: deadline.share(),
        };
        let start = async |state: Option<&saved::State>, helper: Option<Helper>| {
            let mut nics = Vec::new();
            for (index, (tap, mac)) in taps.iter().zip(&macs).enumerate() {
                let tap = tap.try_clone().map_err(Error::Runtime)?;
                nics.push(
                    Nic::new(alpy_qemu::Tap::Descriptor(tap))
                        .mac(*mac)
                        .capture(evidence.file(capture_name(index))),
                );
            }
            let mut options = Options::new()
                .evidence(evidence.dir())
                .accelerator(accelerator.clone());
            if let Some(state) = state {
                options = options.restore_from(state.folder());
            }
            let both = async {
                let qemu = async { Ok(Qemu::start(&machine, nics, options).await?) };
                tokio::try_join!(qemu, skeleton::end(helper))
            };
            step!(target: "alpy::qemu", within: deadline.share(), "Start QEMU", both)
                .await
                .map(|(qemu, ())| qemu)
        };
        let mut state = builder.state(&states).await?;
        let mut completeness = Completeness::begin(skeleton.nodes())?;
        let mut qemu = start(state.as_ref(), helper).await?;
        if let Some(first) = state.take() {
            state = Some(match first.load(&qemu).await {
                Ok(()) => first,
                Err(reason) => {
                    qemu.kill();
                    qemu.wait_exit(TEARDOWN_STEP).await?;
                    let second = builder.replace(first, &reason).await?;
                    completeness = Completeness::begin(skeleton.nodes())?;
                    qemu = start(Some(&second), None).await?;
                    let loaded = second.load(&qemu).await;
                    loaded.map_err(|reason| Error::NotRestored { reason })?;
                    second
                }
            });
        }
        for (link, tap) in taps
            .iter()
            .enumerate()
            .filter(|(link, _)| links[*link].is_unplugged())
        {
            let cable = Cable::new(link, tap, &skeleton.nodes()[link], qemu.qmp());
            cable.set(CableEnd::Node, false).await?;
            cable.set(CableEnd::Machine, false).await?;
        }
        let connect = async {
            let stream = qemu.take_console().expect("nobody has taken it yet");
            let console = Console::builder().transcript(evidence.dir());
            let console = match &state {
                Some(state) => state.console(console)?,
                None => console,
            };
            Ok::<_, Error>(console.start(stream)?)
        };
        let console = step!(target: "alpy::console", "Connect to console", connect).await?;
        let restored = state.is_some();
        // QEMU has all that it needs: the state may go.
        drop(state);
        let recipe = machine.recipe().cloned();
        let captures = (0..links.len())
            .map(|link| Ok(Capture::open(evidence.file(capture_name(link)))?.ignore_torn_tail()))
            .collect::<Result<_>>()?;
        Ok(Self {
            skeleton,
            qemu,
            console,
            evidence,
            captures,
            taps,
            completeness,
            recipe,
            restored,
            until: deadline.until(),
        })
    }

    /// Runs the body of a test, until it is at its end or something else is.
    async fn run_body<T, E>(
        &self,
        body: impl AsyncFnOnce(&Testbed) -> std::result::Result<T, E>,
        steps: &Arc<Steps>,
        limits: &mut Limits,
    ) -> std::result::Result<T, Cause>
    where
        E: Into<BoxError>,
    {
        let body = AssertUnwindSafe(steps.scope(Box::pin(body(self)))).catch_unwind();
        let ended = async {
            tokio::select! {
                biased;
                result = body => match result {
                    Ok(Ok(value)) => Ok(value),
                    Ok(Err(error)) => Err(Cause::Body(error.into())),
                    Err(panic) => Err(Cause::panic(panic.as_ref())),
                },
                lost = self.lost() => Err(Cause::Lost(lost)),
            }
        };
        limits.hold(Box::pin(ended)).await?
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

    /// Takes everything down, machine and nodes at the same time, whatever fails on the way. The steps, with the moments when they
    /// began, are shown among the frames.
    async fn tear_down(self, steps: &[(SystemTime, String)]) -> Vec<String> {
        let Self {
            skeleton,
            mut qemu,
            console,
            evidence,
            captures,
            taps,
            completeness,
            ..
        } = self;
        // QEMU alone has them now, so that a tap's carrier goes with it.
        drop(taps);
        let machine = async {
            let mut errors = Vec::new();
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
            errors
        };
        let nodes = async {
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
        let nodes = step!(target: "alpy::node", "Remove nodes", nodes);
        let (mut errors, nodes) = tokio::join!(machine, nodes);
        errors.extend(completeness.faults(&captures));
        if let Err(error) = merge(&captures, steps, &evidence.file(MERGED)) {
            errors.push(format!("write {MERGED}: {}", chain(&error)));
        }
        let nodes = nodes.err().unwrap_or_default();
        errors.extend(
            nodes
                .iter()
                .map(|error| format!("remove nodes: {}", chain(error))),
        );
        errors
    }
}

/// That of a link, in the order of the links.
#[track_caller]
fn of_link<T>(all: &[T], link: usize) -> &T {
    match all.get(link) {
        Some(one) => one,
        None => panic!("there is no link {link}: the testbed has {} links", all.len()),
    }
}

/// All captures in one file.
fn merge(
    captures: &[Capture],
    steps: &[(SystemTime, String)],
    path: &Path,
) -> std::result::Result<(), alpy_pcap::Error> {
    let mut merge = Merge::new();
    for (link, capture) in captures.iter().enumerate() {
        merge.link(format!("link{link}"), capture)?;
    }
    for (began, text) in steps {
        merge.note(*began, text);
    }
    merge.write(path)
}

fn capture_name(link: usize) -> PathBuf {
    format!("link{link}.pcap").into()
}
