// SPDX-License-Identifier: GPL-3.0-or-later
//! Network interfaces: the device in the guest, the network backend behind it, the capture between the two.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use alpy_qmp::commands::{DeviceAdd, NetdevAdd, ObjectAdd};

use crate::option::OptionValue;

/// A network interface of the machine and the backend that it is wired to.
///
/// The first one of a machine is the device `nic0` on the network backend `link0`, the next `nic1` on `link1`, and so on:
/// the names for QMP's `set_link` and its like.
///
/// A PCI bus has 32 places. So the first 24 interfaces of a machine are on its first bus, and each 31 more behind a PCI bridge, in the order of
/// PCI addresses too, in which guests count them.
#[derive(Debug)]
#[must_use]
pub struct Nic {
    backend: Backend,
    mac: Option<[u8; 6]>,
    capture: Option<PathBuf>,
}

impl Nic {
    /// An interface wired to a backend.
    pub fn new(backend: Backend) -> Self {
        Self {
            backend,
            mac: None,
            capture: None,
        }
    }

    /// The hardware address. Without this word it is QEMU's choice: 52:54:00:12:34:56 for the first interface of every
    /// machine, one more for the next.
    pub fn mac(mut self, address: [u8; 6]) -> Self {
        self.mac = Some(address);
        self
    }

    /// Captures every frame, both ways, into a file in pcap format, which is overwritten. Each frame is in the file as soon as
    /// it has passed (QEMU's filter-dump).
    pub fn capture(mut self, path: impl Into<PathBuf>) -> Self {
        self.capture = Some(path.into());
        self
    }

    /// The same once more, with a copy of its descriptor (dup(2)): for a machine that may have to be started again.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            backend: match &self.backend {
                Backend::Tap(descriptor) => Backend::Tap(descriptor.try_clone()?),
                Backend::NamedTap(name) => Backend::NamedTap(name.clone()),
                Backend::Socket(descriptor) => Backend::Socket(descriptor.try_clone()?),
                Backend::Nowhere => Backend::Nowhere,
            },
            mac: self.mac,
            capture: self.capture.clone(),
        })
    }

    /// Where the frames are captured to.
    pub fn capture_path(&self) -> Option<&Path> {
        self.capture.as_deref()
    }

    pub(crate) fn into_descriptor(self) -> Option<OwnedFd> {
        match self.backend {
            Backend::Tap(descriptor) | Backend::Socket(descriptor) => Some(descriptor),
            Backend::NamedTap(_) | Backend::Nowhere => None,
        }
    }

    /// What the guest sees of it.
    pub(crate) fn without_backend(&self) -> Self {
        Self {
            backend: Backend::Nowhere,
            mac: self.mac,
            capture: None,
        }
    }

    fn mac_text(&self) -> Option<String> {
        let [a, b, c, d, e, f] = self.mac?;
        Some(format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))
    }

    /// What plugs it into a machine that is there already. Its descriptor has been passed under this name.
    pub(crate) fn additions(
        &self,
        index: usize,
        model: NicModel,
        descriptor: &str,
    ) -> (NetdevAdd, Option<ObjectAdd>, DeviceAdd) {
        let (link, nic) = (format!("link{index}"), format!("nic{index}"));
        let netdev = match &self.backend {
            Backend::Tap(_) => NetdevAdd::new("tap", &link)
                .property("fd", descriptor)
                .property("vhost", false),
            Backend::NamedTap(name) => NetdevAdd::new("tap", &link)
                .property("ifname", name.as_str())
                .property("script", "no")
                .property("downscript", "no")
                .property("vnet_hdr", false)
                .property("vhost", false),
            Backend::Socket(_) => NetdevAdd::new("socket", &link).property("fd", descriptor),
            Backend::Nowhere => NetdevAdd::new("hubport", &link).property("hubid", index),
        };
        let capture = self.capture.as_ref().map(|path| {
            ObjectAdd::new("filter-dump", format!("capture{index}"))
                .property("netdev", link.as_str())
                .property("file", path.to_string_lossy())
        });
        let mut device = DeviceAdd::new(model.device(), nic)
            .property("netdev", link)
            .property("romfile", "");
        if let Some(mac) = self.mac_text() {
            device = device.property("mac", mac);
        }
        (netdev, capture, device)
    }

    fn arguments(&self, index: usize, look: Look) -> Vec<OsString> {
        let backend = |kind| OptionValue::new(kind).set("id", format!("link{index}"));
        // vhost would carry the frames past the capture.
        let backend = match &self.backend {
            Backend::Tap(descriptor) => backend("tap")
                .set("fd", descriptor.as_raw_fd().to_string())
                .set("vhost", "off"),
            // With a vnet header on the tap, QEMU before 8.0 writes each frame behind that header into the capture, and the
            // guest may send frames that never were on a wire: larger than the MTU, without checksum.
            Backend::NamedTap(name) => backend("tap")
                .set("ifname", name)
                .set("script", "no")
                .set("downscript", "no")
                .set("vnet_hdr", "off")
                .set("vhost", "off"),
            Backend::Socket(descriptor) => backend("socket").set("fd", descriptor.as_raw_fd().to_string()),
            // A hub with one port: the link is up, as it is with a tap.
            Backend::Nowhere => backend("hubport").set("hubid", index.to_string()),
        };

        let mut device = OptionValue::new(look.model.device())
            .set("id", format!("nic{index}"))
            .set("netdev", format!("link{index}"));
        if let Some(mac) = self.mac_text() {
            device = device.set("mac", mac);
        }
        if let Some((bridge, slot)) = behind_bridge(index) {
            device = device
                .set("bus", bridge_id(bridge))
                .set("addr", format!("{slot:#x}"));
        }
        if !look.network_boot {
            device = device.set("romfile", "");
        } else if let Some(first) = look.boot_index {
            device = device.set("bootindex", (first + index).to_string());
        }
        // A guest that could announce where it has moved to would do so when it is restored. QEMU cannot be told to leave that:
        // with `announce-rounds` 0, 7.2 frees the timer that it uses when the guest resets the device.
        if look.restorable && look.model == NicModel::VirtioNet {
            device = device.set("guest_announce", "off");
        }

        let mut arguments = vec!["-netdev".into(), backend.into(), "-device".into(), device.into()];
        if let Some(path) = &self.capture {
            let dump = OptionValue::new("filter-dump")
                .set("id", format!("capture{index}"))
                .set("netdev", format!("link{index}"))
                .set("file", path);
            arguments.extend(["-object".into(), dump.into()]);
        }
        arguments
    }
}

/// What is behind a network interface: QEMU's network backend.
#[derive(Debug)]
#[non_exhaustive]
pub enum Backend {
    /// An open tap device, which QEMU inherits: made without `IFF_VNET_HDR` (see <https://docs.kernel.org/networking/tuntap.html>),
    /// in whatever network namespace. The way that needs no privilege.
    Tap(OwnedFd),
    /// A tap device in the network namespace of QEMU, which QEMU opens by its name and so must be allowed to.
    NamedTap(String),
    /// One end of a pair of stream sockets (socketpair(2)), which QEMU inherits: a cable to the interface that has the other end, in
    /// whatever QEMU. While the other machine does not take frames, they wait, up to the socket's buffer, and then in the machine that
    /// sends them.
    Socket(OwnedFd),
    /// None: the guest sees its link up, and what it sends goes nowhere. For a machine that is to be saved before it has a wire.
    Nowhere,
}

impl Backend {
    /// A tap by its name.
    pub fn named_tap(name: impl Into<String>) -> Self {
        Self::NamedTap(name.into())
    }
}

/// What kind of interface the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NicModel {
    /// virtio-net. The default.
    VirtioNet,
    /// Intel's 82540EM.
    E1000,
}

impl NicModel {
    fn device(self) -> &'static str {
        match self {
            Self::VirtioNet => "virtio-net-pci",
            Self::E1000 => "e1000",
        }
    }
}

/// The arguments for the network alone, for a QEMU command line that somebody else writes.
///
/// Where a backend is a descriptor, the arguments name its number: that QEMU must inherit it under the same.
pub fn nic_arguments(model: NicModel, nics: &[Nic]) -> Vec<OsString> {
    let look = Look {
        model,
        network_boot: false,
        restorable: false,
        boot_index: None,
    };
    arguments(look, nics)
}

/// What all network interfaces of a machine have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) model: NicModel,
    pub(crate) network_boot: bool,
    /// The machine may go on in another process.
    pub(crate) restorable: bool,
    /// The place in the boot order of the first one with a boot ROM, if the machine has such an order.
    pub(crate) boot_index: Option<usize>,
}

pub(crate) fn arguments(look: Look, nics: &[Nic]) -> Vec<OsString> {
    let of = |(index, nic): (usize, &Nic)| {
        let mut arguments = Vec::new();
        if let Some((bridge, 1)) = behind_bridge(index) {
            let device = OptionValue::new("pci-bridge")
                .set("id", bridge_id(bridge))
                // What tells one from another to a guest that looks for a bridge's slots in a box (PCI-to-PCI bridge specification, 13).
                .set("chassis_nr", bridge.to_string());
            arguments.extend(["-device".into(), device.into()]);
        }
        arguments.extend(nic.arguments(index, look));
        arguments
    };
    nics.iter().enumerate().flat_map(of).collect()
}

/// How many network interfaces are on a machine's first bus. That leaves 6 places there on the machine type `pc`: for bridges, disks, and what
/// else a machine has.
const ON_FIRST_BUS: usize = 24;

/// The slots behind a bridge: all but the first, which is the bridge's own where it has a hot-plug controller.
const BEHIND_BRIDGE: usize = 31;

/// The bridge, from 1, and the slot behind it of a network interface that is not on the first bus. It depends on nothing but the interface's
/// number, so that one more or less does not move the others.
fn behind_bridge(index: usize) -> Option<(usize, usize)> {
    let index = index.checked_sub(ON_FIRST_BUS)?;
    Some((index / BEHIND_BRIDGE + 1, index % BEHIND_BRIDGE + 1))
}

fn bridge_id(bridge: usize) -> String {
    format!("bridge{bridge}")
}
