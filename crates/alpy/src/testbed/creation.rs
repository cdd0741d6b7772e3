// SPDX-License-Identifier: GPL-3.0-or-later
//! How a testbed comes to be.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alpy_console::Console;
use alpy_pcap::Capture;
use alpy_qemu::{Accelerator, Backend, Machine, Nic, Options, Qemu};
use alpy_qmp::Timer;
use futures_util::future::try_join_all;
use tokio::sync::{Mutex, Notify};
use tracing::info;

use super::attended::Attended;
use super::dut::{Dut, Name};
use super::wired::{Counted, Far, NicOf, Wired, capture_name};
use super::{TEARDOWN_STEP, Testbed, saved};
use crate::error::{Error, Result};
use crate::evidence::Evidence;
use crate::limits::Deadline;
use crate::link::AnyLink;
use crate::node::Node;
use crate::processor::Schedules;
use crate::report::{Recorder, Start};
use crate::run::Run;
use crate::skeleton::{self, SkeletonBuilder};
use crate::states::SavedStates;
use crate::step;
use crate::step::Steps;

/// What a testbed is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) machines: Vec<Machine>,
    pub(super) links: Vec<AnyLink>,
    /// Without links: engine and images.
    pub(super) skeleton: SkeletonBuilder,
    pub(super) accelerator: Option<Accelerator>,
    pub(super) states: Option<SavedStates>,
}

/// A machine, and what it is started with.
struct Plan<'a> {
    name: Name,
    machine: Machine,
    accelerator: Accelerator,
    states: SavedStates,
    nics: Vec<Nic>,
    macs: Vec<[u8; 6]>,
    /// Those at the other ends of its links.
    nodes: Vec<&'a Node>,
    evidence: PathBuf,
    run: &'a Run,
    began: Instant,
    share: Duration,
    schedules: &'a Schedules,
    timer: &'a Timer,
}

impl Parts {
    /// Looks at every value before anything is touched.
    pub(super) fn check(&self) -> Result<()> {
        for (index, link) in self.links.iter().enumerate() {
            match link {
                AnyLink::ToNode(link) => link.check(index)?,
                AnyLink::Direct(_) => drop(link.macs(index)?),
            }
            link.machines()
                .into_iter()
                .try_for_each(|machine| check_machine(index, machine, self.machines.len().max(1)))?;
        }
        Ok(self.machines.iter().try_for_each(Machine::check)?)
    }

    /// Makes it, under the labels of a run.
    pub(super) async fn create(
        self,
        run: Arc<Run>,
        evidence: Arc<Evidence>,
        recorder: Arc<Recorder>,
        steps: Arc<Steps>,
        deadline: Deadline,
    ) -> Result<Testbed> {
        let (share, began) = (deadline.share(), recorder.start());
        let schedules = steps.schedules().clone();
        let timer = schedules.timer();
        let states = match &self.states {
            Some(states) => states.clone(),
            None => SavedStates::from_env()?,
        };
        let to_nodes = self.links.iter().enumerate();
        let to_nodes: Vec<_> = to_nodes
            .filter_map(|(index, link)| match link {
                AnyLink::ToNode(link) => Some((index, link.clone())),
                AnyLink::Direct(_) => None,
            })
            .collect();
        let (nodes, taps, helper) = skeleton::start_in(&run, &to_nodes, share).await?;
        let choose = self.accelerators();
        let accelerators =
            step!(target: "alpy::qemu", within: share, "Choose the accelerator", choose).await?;
        let mut plans = Vec::new();
        for (index, (machine, accelerator)) in self.machines.iter().zip(accelerators).enumerate() {
            let alike = |plan: &Plan<'_>| plan.machine.program_path() == machine.program_path();
            if !plans.iter().any(alike) {
                info!(target: "alpy::qemu", "Accelerator: {} ({})", accelerator.name(), accelerator.reason());
            }
            let unplugged = |link: &AnyLink| link.is_unplugged() && link.machines().contains(&index);
            let name = Name {
                index,
                count: self.machines.len(),
            };
            plans.push(Plan {
                name,
                machine: machine.clone(),
                accelerator,
                states: match self.links.iter().any(unplugged) {
                    true => SavedStates::off(),
                    false => states.clone(),
                },
                nics: Vec::new(),
                macs: Vec::new(),
                nodes: Vec::new(),
                evidence: folder(&evidence, name)?,
                run: &run,
                began: began.instant,
                share,
                schedules: &schedules,
                timer: &timer,
            });
        }
        // Each link, with what it has at its ends.
        let mut ends = nodes.iter().zip(taps);
        let mut wires = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            let (machines, macs) = (link.machines(), link.macs(index)?);
            let capture = link.is_captured().then(|| evidence.file(capture_name(index)));
            let (backends, tap) = match link {
                AnyLink::ToNode(_) => {
                    let (node, tap) = ends.next().expect("each such link has a node");
                    plans[machines[0]].nodes.push(node);
                    (
                        vec![Backend::Tap(tap.try_clone().map_err(Error::Runtime)?)],
                        Some(tap),
                    )
                }
                AnyLink::Direct(_) => {
                    let (near, far) = UnixStream::pair().map_err(Error::Runtime)?;
                    (
                        vec![Backend::Socket(near.into()), Backend::Socket(far.into())],
                        None,
                    )
                }
            };
            let mut nics = Vec::new();
            for (end, ((backend, mac), machine)) in backends.into_iter().zip(macs).zip(machines).enumerate() {
                let nic = Nic::new(backend).mac(mac);
                let plan = &mut plans[machine];
                nics.push(NicOf::new(machine, plan.nics.len()));
                plan.nics.push(match &capture {
                    Some(capture) if end == 0 => nic.capture(capture),
                    _ => nic,
                });
                plan.macs.push(mac);
            }
            wires.push((nics, tap, capture));
        }
        let start = async { try_join_all(plans.into_iter().map(Plan::start)).await };
        let (started, ()) = tokio::try_join!(start, skeleton::end(helper))?;
        let (duts, counted): (Vec<_>, Vec<_>) = started.into_iter().unzip();
        let mut counted: Vec<_> = counted.into_iter().flatten().collect();
        counted.sort_by_key(Counted::link);
        let mut ends = nodes.into_iter().zip(counted);
        let wired = wires
            .into_iter()
            .enumerate()
            .map(|(index, (mut nics, tap, capture))| {
                let far = match tap {
                    Some(tap) => {
                        let (node, counted) = ends.next().expect("each tap has a node");
                        Far::Node {
                            node: Box::new(node),
                            tap,
                            counted,
                        }
                    }
                    None => Far::Nic(nics.pop().expect("a direct link has two")),
                };
                Ok(Wired {
                    index,
                    nic: nics.pop().expect("each link has one"),
                    far,
                    capture: capture
                        .map(|path| open_capture(path, &timer, began))
                        .transpose()?,
                    hot: false,
                })
            });
        let links = wired.collect::<Result<Vec<_>>>()?;
        let attended = Attended::begin(run.folder());
        let bed = Testbed {
            run,
            duts,
            links: links.into_iter().collect(),
            growing: Mutex::default(),
            grown: Notify::new(),
            evidence,
            recorder,
            steps,
            attended,
            until: deadline.until(),
        };
        let unplugged = self
            .links
            .iter()
            .enumerate()
            .filter(|(_, link)| link.is_unplugged());
        for (index, _) in unplugged {
            bed.cable(index).pull().await?;
        }
        Ok(bed)
    }

    /// That of each machine, found out once for each program.
    async fn accelerators(&self) -> Result<Vec<Accelerator>> {
        let mut found: Vec<Accelerator> = Vec::new();
        for (index, machine) in self.machines.iter().enumerate() {
            let alike = |earlier: &Machine| earlier.program_path() == machine.program_path();
            let earlier = self.machines[..index].iter().position(alike);
            found.push(match (&self.accelerator, earlier) {
                (Some(accelerator), _) => accelerator.clone(),
                (None, Some(earlier)) => found[earlier].clone(),
                (None, None) => Accelerator::detect(machine.program_path()).await?,
            });
        }
        Ok(found)
    }
}

impl Plan<'_> {
    /// Starts the machine, restored if there is a state. Also says what the kernel had counted at its taps before.
    async fn start(self) -> Result<(Dut, Vec<Counted>)> {
        let builder = saved::Builder {
            name: self.name,
            machine: &self.machine,
            macs: &self.macs,
            accelerator: &self.accelerator,
            run: self.run,
            began: self.began,
            evidence: &self.evidence,
            share: self.share,
            schedules: self.schedules,
            timer: self.timer,
        };
        let mut state = builder.state(&self.states).await?;
        let (mut qemu, mut counted) = self.start_qemu(state.as_ref()).await?;
        if let Some(first) = state.take() {
            state = Some(match first.load(&qemu).await {
                Ok(()) => first,
                Err(reason) => {
                    qemu.kill();
                    qemu.wait_exit(TEARDOWN_STEP).await?;
                    let second = builder.replace(first, &reason).await?;
                    (qemu, counted) = self.start_qemu(Some(&second)).await?;
                    let loaded = second.load(&qemu).await;
                    loaded.map_err(|reason| Error::NotRestored { reason })?;
                    second
                }
            });
        }
        let connect = async {
            let stream = qemu.take_console().expect("nobody has taken it yet");
            let console = Console::builder()
                .transcript(&self.evidence)
                .timer(Arc::clone(self.timer))
                .on_command(self.name.on_command());
            let console = match &state {
                Some(state) => state.console(console)?,
                None => console,
            };
            Ok::<_, Error>(console.start(stream)?)
        };
        let console = step!(target: "alpy::console", self.name.step("Connect to console"), connect).await?;
        let dut = Dut {
            name: self.name,
            qemu,
            console,
            recipe: self.machine.recipe().cloned(),
            restored: state.is_some(),
        };
        // QEMU has all that it needs: the state may go.
        Ok((dut, counted))
    }

    async fn start_qemu(&self, state: Option<&saved::State>) -> Result<(Qemu, Vec<Counted>)> {
        let counted = self.nodes.iter().map(|node| Counted::begin(node));
        let counted = counted.collect::<Result<_>>()?;
        let nics = self.nics.iter().map(Nic::try_clone);
        let nics = nics.collect::<std::io::Result<_>>().map_err(Error::Runtime)?;
        let mut options = Options::new()
            .evidence(&self.evidence)
            .clock_start(self.began)
            .timer(Arc::clone(self.timer))
            .accelerator(self.accelerator.clone());
        if let Some(state) = state {
            options = options.restore_from(state.folder());
        }
        let start = async { Ok::<_, Error>(Qemu::start(&self.machine, nics, options).await?) };
        let text = self.name.step("Start QEMU");
        let qemu = step!(target: "alpy::qemu", within: self.share, text, start).await?;
        self.schedules.add(self.name.index, qemu.schedule().clone());
        Ok((qemu, counted))
    }
}

/// A capture that QEMU has begun.
pub(super) fn open_capture(path: PathBuf, timer: &Timer, began: Start) -> Result<Capture> {
    let capture = Capture::open(path)?.ignore_torn_tail();
    Ok(capture.timer(Arc::clone(timer)).clock_start(began.moment))
}

/// Whether a link's machine is there.
pub(super) fn check_machine(index: usize, machine: usize, count: usize) -> Result<()> {
    if machine < count {
        return Ok(());
    }
    Err(Error::NoMachine {
        index,
        machine,
        count,
    })
}

/// The folder for a machine's evidence: that of the test for the first one.
fn folder(evidence: &Evidence, name: Name) -> Result<PathBuf> {
    if name.index == 0 {
        return Ok(evidence.dir().to_owned());
    }
    let dir = evidence.file(format!("machine{}", name.index));
    match fs::create_dir(&dir) {
        Ok(()) => Ok(dir),
        Err(source) => Err(Error::Evidence { dir, source }),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_capture_of_a_testbed_does_not_count_the_time_in_which_a_machine_starves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("link0.pcap");
        let header = b"\xd4\xc3\xb2\xa1\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01\0\0\0";
        fs::write(&path, header).unwrap();
        let starved: Timer = Arc::new(|_| Box::pin(pending()));
        let capture = open_capture(path, &starved, Start::now()).unwrap();
        // By wall time, the limit is over at once.
        let expected = timeout(
            Duration::from_millis(100),
            capture.expect(|_| true, Duration::ZERO),
        );
        assert!(expected.await.is_err());
    }
}
