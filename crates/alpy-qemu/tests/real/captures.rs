// SPDX-License-Identifier: GPL-3.0-or-later
//! Captures on a real tap. The frames are those of a boot ROM that looks for something to boot from.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use alpy_need::need;
use alpy_qemu::{Backend, Nic, Qemu};

use crate::guest::{self, LONG};

/// The variable that tells a second instance of this test that it is in namespaces of its own, and where to write.
const INSIDE: &str = "ALPY_TEST_INSIDE";

#[tokio::test]
async fn tells_which_capture_is_incomplete() {
    need!(qemu, tun, user_namespaces);
    if let Some(folder) = std::env::var_os(INSIDE) {
        return inside(folder.as_ref()).await;
    }
    // A tap needs CAP_NET_ADMIN. In a user namespace anybody has it, and no tap is seen outside.
    let folder = tempfile::tempdir().unwrap();
    let status = guest::myself(
        &["unshare", "-Urn"],
        "captures::tells_which_capture_is_incomplete",
        INSIDE,
        folder.path(),
    )
    .status()
    .unwrap();
    assert!(status.success(), "{status}");
}

async fn inside(folder: &Path) {
    let (bad, good) = (folder.join("link0.pcap"), folder.join("link1.pcap"));
    // A pipe stands for the disk that gets full: once nobody has it open for reading, QEMU cannot write to it any more.
    nix::unistd::mkfifo(&bad, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut reader = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&bad)
        .unwrap();
    let nics = vec![
        Nic::new(Backend::Tap(tap("alpy0"))).capture(&bad),
        Nic::new(Backend::Tap(tap("alpy1"))).capture(&good),
    ];
    let machine = guest::idle().memory_mib(64).network_boot();
    let qemu = Qemu::start(&machine, nics, guest::tcg()).await.unwrap();
    qemu.start_cpu().await.unwrap();
    let mut capture = Vec::new();
    guest::eventually("a frame is captured", || {
        // It ends with an error, as nothing more is there for now.
        let _ = reader.read_to_end(&mut capture);
        capture.len() > 60
    })
    .await;
    assert_eq!(capture[..4], 0xa1b2_c3d4_u32.to_ne_bytes());
    // Behind the file's header of 24 and the record's of 16 bytes, the frame begins, to a broadcast or an IPv6 multicast
    // address, and with nothing before it.
    let address = &capture[40..46];
    assert!(
        address == [0xff; 6] || address.starts_with(&[0x33, 0x33]),
        "{address:x?}"
    );
    assert!(qemu.incomplete_captures().is_empty());
    drop(reader);
    guest::eventually("an incomplete capture is told", || {
        !qemu.incomplete_captures().is_empty()
    })
    .await;
    qemu.quit(LONG).await.unwrap();
    assert_eq!(qemu.incomplete_captures(), [bad]);
    assert_eq!(fs::metadata(&good).unwrap().len(), 24);
}

/// A tap in this network namespace, without a vnet header.
fn tap(name: &str) -> OwnedFd {
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: an `ifreq` of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.try_into().unwrap();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as i16;
    // SAFETY: TUNSETIFF takes an `ifreq`, which outlives the call.
    let done = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    tun.into()
}
