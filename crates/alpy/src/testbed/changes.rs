// SPDX-License-Identifier: GPL-3.0-or-later
//! What changes in the middle of a test: power that is cut, links that come and go.

use std::sync::atomic::Ordering;
use std::time::Duration;

use alpy_qemu::{Backend, Nic};
use futures_util::future::join_all;

use super::wired::{Counted, Far, NicOf, Wired, capture_name};
use super::{Testbed, creation};
use crate::error::{Error, Result};
use crate::link::{AnyLink, Link};
use crate::skeleton;
use crate::step;

/// How long the start of a link in the middle of a test may take, and a guest to let go of a NIC.
const HOT_PLUG: Duration = Duration::from_secs(30);

/// How long QEMU may take to end when a machine's power is cut.
const POWER_CUT: Duration = Duration::from_secs(10);

impl Testbed {
    /// Cuts the power of a machine: its QEMU ends from one instruction to the next, and what is at the other ends of its links sees the
    /// carrier go. It does not come back in this test.
    ///
    /// A QEMU that hangs is killed, after 10 s.
    ///
    /// # Errors
    /// QEMU had ended before, of itself; a cable cannot be pulled. What could be done is done.
    ///
    /// Not cancel safe: carriers may stay. It may be called again.
    ///
    /// # Panics
    /// If there is no such machine, as indexing does.
    pub async fn cut_power(&self, machine: usize) -> Result<()> {
        let dut = self.dut(machine);
        let cut = async {
            let ended = match dut.qemu.quit(POWER_CUT).await {
                Err(alpy_qemu::Error::Killed { .. }) => Ok(()),
                ended => ended.map_err(Error::from),
            };
            let pulled = join_all(self.links.iter().map(|wired| self.lose_carrier(wired, machine))).await;
            [ended].into_iter().chain(pulled).collect()
        };
        step!(target: "alpy::qemu", format!("Cut the power of machine {machine}"), cut).await
    }

    /// What is at the other end of a link of this machine, if it is one, loses its carrier.
    async fn lose_carrier(&self, wired: &Wired, machine: usize) -> Result<()> {
        let cable = self.cable(wired.index);
        let sees = |of: &NicOf| of.dut != machine && !of.is_gone() && self.duts[of.dut].is_on();
        match &wired.far {
            Far::Node { .. } if wired.nic.dut == machine => cable.set_far(false).await,
            Far::Nic(far) if wired.nic.dut == machine && sees(far) => cable.set_far(false).await,
            Far::Nic(far) if far.dut == machine && sees(&wired.nic) => cable.set_near(false).await,
            _ => Ok(()),
        }
    }

    /// Adds a link while the test runs: a new node, and a new NIC that is plugged into the machine, whose guest sees it come. Gives the
    /// number of the link.
    ///
    /// ```no_run
    /// # async fn example(bed: &alpy::Testbed) -> alpy::TestResult {
    /// let uplink = bed.hot_plug(alpy::Link::new().address("203.0.113.1/24")).await?;
    /// bed.node(uplink);
    /// bed.hot_unplug(uplink).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// A machine of the [type](alpy_qemu::Machine::machine_type) `pc`, the default, has places for NICs that come later; `q35` has none on its
    /// first bus.
    ///
    /// # Errors
    /// As [`TestbedBuilder::run`](crate::TestbedBuilder::run) for a link; the machine has ended, or QEMU has no place for it. Nothing stays of it then.
    ///
    /// Not cancel safe: the NIC may stay, without a link. The node ends in the background.
    pub async fn hot_plug(&self, link: Link) -> Result<usize> {
        let _alone = self.growing.lock().await;
        let (index, machine) = (self.links.iter().count(), link.of_machine());
        link.check(index)?;
        creation::check_machine(index, machine, self.duts.len())?;
        let dut = self.dut(machine);
        dut.check_on()?;
        let plug = async {
            let asked = AnyLink::ToNode(link.clone());
            let (mac, unplugged, captured) = (link.nic_mac(index)?, link.is_unplugged(), link.is_captured());
            let (nodes, taps, helper) = skeleton::start_in(&self.run, &[(index, link)], HOT_PLUG).await?;
            skeleton::end(helper).await?;
            let (node, tap) = nodes.into_iter().zip(taps).next().expect("one was asked for");
            let counted = Counted::begin(&node)?;
            let path = captured.then(|| self.evidence.file(capture_name(index)));
            let backend = Backend::Tap(tap.try_clone().map_err(Error::Runtime)?);
            let nic = Nic::new(backend).mac(mac);
            let nic = match &path {
                Some(path) => nic.capture(path),
                None => nic,
            };
            let nic = dut.qemu.plug_nic(nic).await?;
            let timer = self.steps.schedules().timer();
            let began = self.recorder.start();
            let capture = path.map(|path| creation::open_capture(path, &timer, began));
            let capture = capture.transpose()?;
            self.links.push(Wired {
                index,
                nic: NicOf::new(machine, nic),
                far: Far::Node {
                    node: Box::new(node),
                    tap,
                    counted,
                },
                capture,
                hot: true,
            });
            self.recorder.hot_plugged(index, &asked);
            self.grown.notify_one();
            if unplugged {
                self.cable(index).pull().await?;
            }
            Ok(index)
        };
        step!(target: "alpy::testbed", format!("Plug in link {index}"), plug).await
    }

    /// Pulls the NIC of a link out of the running machine, once the guest has let it go; of a direct link, both NICs. The node stays, without
    /// a carrier; so do its applications and the capture.
    ///
    /// # Errors
    /// The machine has ended, or the guest does not let go of it within 30 s, as one that boots yet. It may be called again.
    ///
    /// Not cancel safe: the guest stays asked.
    ///
    /// # Panics
    /// If there is no such link, as indexing does.
    pub async fn hot_unplug(&self, link: usize) -> Result<()> {
        let wired = self.link(link);
        let one = async |of: &NicOf| {
            let dut = &self.duts[of.dut];
            if !of.is_gone() {
                dut.check_on()?;
                dut.qemu.unplug_nic(of.nic, HOT_PLUG).await?;
                of.gone.store(true, Ordering::Relaxed);
            }
            Ok(())
        };
        let unplug = async {
            let nics: Result<()> = join_all(wired.nics().map(one)).await.into_iter().collect();
            nics?;
            match wired.far {
                Far::Node { .. } => self.cable(link).set_far(false).await,
                Far::Nic(_) => Ok(()),
            }
        };
        step!(target: "alpy::testbed", format!("Pull out link {link}"), unplug).await
    }
}
