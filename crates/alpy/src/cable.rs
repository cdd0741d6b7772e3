// SPDX-License-Identifier: GPL-3.0-or-later
//! The cable of a link: pulled, plugged, cut inside.

use std::os::fd::OwnedFd;
use std::time::Duration;

use alpy_netns::set_carrier;
use alpy_qmp::Client;
use alpy_qmp::commands::SetLink;
use serde_json::{Value, json};
use tokio::time::{interval, sleep};

use crate::error::{Error, Result};
use crate::node::Node;
use crate::step;
use crate::step::within;

/// The cable between the machine's NIC and the node's tap, or the other machine's NIC.
///
/// ```no_run
/// # async fn example(bed: &alpy::Testbed) -> alpy::TestResult {
/// use std::time::Duration;
///
/// let uplink = bed.cable(1);
/// uplink.unplug().await?; // the guest sees the link go down, and the node NO-CARRIER
/// uplink.plug().await?;
/// uplink.flap(Duration::from_millis(200), 5).await?;
/// uplink.blackhole().await?; // both see a carrier, and nothing arrives
/// # Ok(()) }
/// ```
///
/// A link's capture is at the node's end, and that of a direct link at the first machine's. A frame that comes from there and gets lost in
/// the cable is therefore in the capture, and one that comes from the other end is not.
///
/// No method is cancel safe: what is left half-done, the next [`plug`](Self::plug) sets right. One at a time is to work at a cable.
#[derive(Debug, Clone, Copy)]
pub struct Cable<'a> {
    link: usize,
    near: CableNic<'a>,
    far: End<'a>,
}

/// A machine's NIC.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CableNic<'a> {
    pub(crate) qmp: &'a Client,
    pub(crate) machine: usize,
    pub(crate) nic: usize,
    /// It was pulled out of the machine.
    pub(crate) gone: bool,
}

/// What is at the other end of a cable.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End<'a> {
    Node { node: &'a Node, tap: &'a OwnedFd },
    Nic(CableNic<'a>),
}

/// How long the node's kernel may take to notice that its carrier is gone or there: up to a second, on an idle machine.
const NOTICE: Duration = Duration::from_secs(5);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// One end of a cable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CableEnd {
    /// At the machine, the first one of a direct link: the guest sees its NIC's link go down, neither sends nor receives. The other end
    /// sees nothing. (What comes for an e1000 meanwhile waits for it, in QEMU, instead of being lost. Pull both ends.)
    Machine,
    /// At the node: its interface has no carrier, and sends nothing. What the machine sends arrives all the same. The guest sees
    /// nothing.
    Node,
    /// At the second machine of a direct link.
    OtherMachine,
}

impl CableEnd {
    fn name(self) -> &'static str {
        match self {
            Self::Machine => "the machine's end",
            Self::Node => "the node's end",
            Self::OtherMachine => "the other machine's end",
        }
    }
}

impl<'a> Cable<'a> {
    pub(crate) fn new(link: usize, near: CableNic<'a>, far: End<'a>) -> Self {
        Self { link, near, far }
    }

    /// Pulls it out at both ends. When this returns, the node sends nothing, and the guest has been told.
    ///
    /// # Errors
    /// QEMU or the kernel refuses; [`Error::StepTimeout`] if the node's kernel does not notice within 5 s.
    pub async fn unplug(&self) -> Result<()> {
        let unplug = self.pull();
        step!(target: "alpy::cable", format!("Unplug link {}", self.link), unplug).await
    }

    /// Pulls it out at one end.
    ///
    /// # Errors
    /// QEMU or the kernel refuses; [`Error::StepTimeout`] if the node's kernel does not notice within 5 s; [`Error::NoCableEnd`].
    pub async fn unplug_end(&self, end: CableEnd) -> Result<()> {
        let text = format!("Unplug {} of link {}", end.name(), self.link);
        step!(target: "alpy::cable", text, self.set(end, false)).await
    }

    /// Makes it whole and plugs it in at both ends, whatever it was like.
    ///
    /// # Errors
    /// QEMU or the kernel refuses; [`Error::StepTimeout`] if the node's kernel does not notice within 5 s.
    pub async fn plug(&self) -> Result<()> {
        let plug = async {
            self.set_blackhole(false).await?;
            self.set_near(true).await?;
            self.set_far(true).await
        };
        step!(target: "alpy::cable", format!("Plug link {}", self.link), plug).await
    }

    /// Plugs it in at one end.
    ///
    /// # Errors
    /// QEMU or the kernel refuses; [`Error::StepTimeout`] if the node's kernel does not notice within 5 s; [`Error::NoCableEnd`].
    pub async fn plug_end(&self, end: CableEnd) -> Result<()> {
        let text = format!("Plug {} of link {}", end.name(), self.link);
        step!(target: "alpy::cable", text, self.set(end, true)).await
    }

    /// Pulls it out at both ends for half of a period and plugs it in for the other half, so many times.
    ///
    /// # Errors
    /// QEMU or the kernel refuses; [`Error::StepTimeout`] if the node's kernel does not notice within 5 s.
    #[expect(clippy::disallowed_methods, reason = "the time is what is asked for")]
    pub async fn flap(&self, period: Duration, times: u32) -> Result<()> {
        for _ in 0..times {
            self.unplug().await?;
            sleep(period / 2).await;
            self.plug().await?;
            sleep(period / 2).await;
        }
        Ok(())
    }

    /// Cuts it inside, until it is [plugged](Self::plug) again: both ends see a carrier, and what one of them sends does not arrive.
    ///
    /// # Errors
    /// QEMU refuses.
    pub async fn blackhole(&self) -> Result<()> {
        let text = format!("Turn link {} into a black hole", self.link);
        step!(target: "alpy::cable", text, self.set_blackhole(true)).await
    }

    /// Out at both ends.
    pub(crate) async fn pull(&self) -> Result<()> {
        // The node first: it then sends nothing that is lost on its way.
        self.set_far(false).await?;
        self.set_near(false).await
    }

    async fn set(&self, end: CableEnd, plugged: bool) -> Result<()> {
        match (end, self.far) {
            (CableEnd::Machine, _) => self.set_near(plugged).await,
            (CableEnd::Node, End::Node { .. }) | (CableEnd::OtherMachine, End::Nic(_)) => {
                self.set_far(plugged).await
            }
            _ => Err(Error::NoCableEnd {
                index: self.link,
                end,
            }),
        }
    }

    pub(crate) async fn set_near(&self, plugged: bool) -> Result<()> {
        self.set_link(self.near, plugged).await
    }

    pub(crate) async fn set_far(&self, plugged: bool) -> Result<()> {
        match self.far {
            End::Node { node, tap } => {
                set_carrier(tap, plugged).map_err(|source| Error::Cable {
                    index: self.link,
                    source,
                })?;
                noticed(node, plugged).await
            }
            End::Nic(nic) => self.set_link(nic, plugged).await,
        }
    }

    async fn set_link(&self, of: CableNic<'_>, up: bool) -> Result<()> {
        if of.gone {
            return Err(Error::NicGone {
                index: self.link,
                machine: of.machine,
            });
        }
        let name = format!("nic{}", of.nic);
        of.qmp.execute(SetLink { name, up }).await?;
        Ok(())
    }

    /// A filter of QEMU's that sends all frames elsewhere, which is nowhere. It stands behind that of the capture, seen from where the
    /// capture is: from the tap, and on a direct link from the first machine. QEMU passes what a NIC sends through the filters from the last
    /// to the first, and what comes to it from the first to the last.
    async fn set_blackhole(&self, wanted: bool) -> Result<()> {
        let nic = self.near.nic;
        let id = format!("blackhole{nic}");
        // Each on its own: somebody may have been cancelled between the two.
        let filters = self.ask("qom-list", json!({"path": "/objects"})).await?;
        let ends = self.ask("query-chardev", json!({})).await?;
        let (filter, end) = (is_in(&filters, "name", &id), is_in(&ends, "label", &id));
        if wanted {
            if !end {
                let nowhere = json!({"id": id, "backend": {"type": "null", "data": {}}});
                self.ask("chardev-add", nowhere).await?;
            }
            if !filter {
                let position = match self.far {
                    End::Node { .. } => "tail",
                    End::Nic(_) => "head",
                };
                let filter = json!({
                    "qom-type": "filter-redirector", "id": id, "netdev": format!("link{nic}"), "queue": "all", "outdev": id,
                    "position": position,
                });
                self.ask("object-add", filter).await?;
            }
        } else {
            if filter {
                self.ask("object-del", json!({"id": id})).await?;
            }
            if end {
                self.ask("chardev-remove", json!({"id": id})).await?;
            }
        }
        Ok(())
    }

    async fn ask(&self, command: &str, arguments: Value) -> Result<Value> {
        Ok(self.near.qmp.execute_raw(command, arguments).await?)
    }
}

/// Waits until a node's kernel sends, or no longer does. One whose interface is down does not, whatever the cable is like.
async fn noticed(node: &Node, plugged: bool) -> Result<()> {
    let noticed = async {
        let mut looks = interval(LOOK);
        loop {
            looks.tick().await;
            let state = node.link_state()?;
            if state.sends == plugged || !state.up {
                return Ok(());
            }
        }
    };
    within(NOTICE, noticed).await
}

/// Whether there is something of this name in a list of QEMU's.
fn is_in(list: &Value, key: &str, name: &str) -> bool {
    let named = |entry: &Value| entry[key] == name;
    list.as_array().is_some_and(|list| list.iter().any(named))
}
