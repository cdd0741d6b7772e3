// SPDX-License-Identifier: GPL-3.0-or-later
//! Taps: made where they are to be, or made elsewhere and moved there.
//!
//! All of it happens in namespaces of its own, which end with the processes that hold them.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use alpy::netns::{HELPER, InterfaceName, LinkChange, Listener, Request};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::figure::{note, print};
use crate::peer::{self, Killed};
use crate::{Extent, order};

const TAPS: [usize; 2] = [1, 16];
const LIMIT: Duration = Duration::from_secs(30);

/// What each way is called, and the word for it; none for alpy's.
const WAYS: [(&str, Option<&str>); 4] = [
    ("bare ioctl loop, in place", Some("bare")),
    ("alpy-netns, in place", None),
    ("ip(8), create and move", Some("ip")),
    ("ip -batch, create and move", Some("batch")),
];

// linux/if_tun.h and linux/sockios.h.
nix::ioctl_write_ptr_bad!(tunsetiff, 0x4004_54ca, libc::ifreq);
nix::ioctl_write_ptr_bad!(siocsifflags, 0x8914, libc::ifreq);

/// Measures it.
pub(crate) fn measure(extent: &Extent) -> Result<()> {
    print("helper", "size, MB", "alpy-netns", HELPER.len() as f64 / 1e6);
    let folder = tempfile::tempdir()?;
    let helper = folder.path().join("helper");
    fs::write(&helper, HELPER)?;
    fs::set_permissions(&helper, Permissions::from_mode(0o755))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for taps in TAPS {
        let case = if taps == 1 {
            "1 tap".to_owned()
        } else {
            format!("{taps} taps")
        };
        for run in 0..extent.runs {
            note(&format!("netns: {case}, run {} of {}", run + 1, extent.runs));
            for index in order(WAYS.len(), run) {
                let (subject, way) = WAYS[index];
                let time = match way {
                    None => runtime.block_on(ours(folder.path(), &helper, taps))?,
                    Some(way) => {
                        let mut command = in_namespace();
                        command.arg(std::env::current_exe()?);
                        command.args(["netns-maker", way, &taps.to_string()]);
                        Duration::from_secs_f64(peer::output(command)?.trim().parse()?)
                    }
                };
                print(&case, "each, ms", subject, time.as_secs_f64() * 1e3 / taps as f64);
            }
        }
    }
    Ok(())
}

/// In a network namespace of its own, as root of a user namespace of its own.
fn in_namespace() -> Command {
    let mut command = peer::program("unshare");
    command.arg("-Urn");
    command
}

async fn ours(folder: &Path, helper: &Path, taps: usize) -> Result<Duration> {
    let listener = Listener::bind_in(folder)?;
    let mut command = in_namespace();
    command.arg(helper).arg("serve").arg(listener.socket());
    let _helper = Killed(command.spawn().context("start unshare")?);
    let mut session = listener.accept(LIMIT).await?;
    let mut request = Request::new();
    for tap in 0..taps {
        let name: InterfaceName = format!("tap{tap}").parse()?;
        request = request.tap(name.clone()).link(LinkChange::of(name).up());
    }
    let start = Instant::now();
    let answer = session.run(&request, LIMIT).await?;
    let time = start.elapsed();
    ensure!(
        answer.taps.len() == taps,
        "expected {taps} taps, saw {}",
        answer.taps.len()
    );
    Ok(time)
}

/// Makes taps in the namespace that it runs in, or another one, and prints the seconds.
pub(crate) fn maker(way: &str, taps: usize) -> Result<()> {
    let time = match way {
        "bare" => bare(taps)?,
        "ip" | "batch" => {
            let target = Target::start()?;
            let start = Instant::now();
            if way == "ip" {
                target.one_by_one(taps)?;
            } else {
                target.at_once(taps)?;
            }
            start.elapsed()
        }
        other => bail!("no such way to make taps: {other}"),
    };
    println!("{}", time.as_secs_f64());
    Ok(())
}

/// The limit.
fn bare(taps: usize) -> Result<Duration> {
    let start = Instant::now();
    let control = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut open = Vec::with_capacity(taps);
    for tap in 0..taps {
        let device = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")
            .context("/dev/net/tun")?;
        // SAFETY: all zeros is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(format!("tap{tap}").bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is a tun device, and the request outlives the call.
        unsafe { tunsetiff(device.as_raw_fd(), &request) }?;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        // SAFETY: the descriptor is a socket, and the request outlives the call.
        unsafe { siocsifflags(control.as_raw_fd(), &request) }?;
        open.push(device);
    }
    Ok(start.elapsed())
}

/// A second network namespace, for as long as this lives.
struct Target(Killed);

impl Target {
    fn start() -> Result<Self> {
        let mut command = peer::program("unshare");
        command
            .args(["-n", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut holder = Killed(command.spawn().context("start unshare")?);
        let stdout = holder.0.stdout.take().context("it is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the second namespace is not there: {line:?}");
        Ok(Self(holder))
    }

    fn create(tap: usize) -> String {
        format!("tuntap add mode tap dev tap{tap}")
    }

    fn transfer(&self, tap: usize) -> String {
        format!("link set dev tap{tap} netns {} up", self.0.0.id())
    }

    fn one_by_one(&self, taps: usize) -> Result<()> {
        for tap in 0..taps {
            for words in [Self::create(tap), self.transfer(tap)] {
                let mut command = peer::program("ip");
                command.args(words.split(' '));
                peer::output(command)?;
            }
        }
        Ok(())
    }

    fn at_once(&self, taps: usize) -> Result<()> {
        let mut lines = tempfile::tempfile()?;
        for tap in 0..taps {
            writeln!(lines, "{}\n{}", Self::create(tap), self.transfer(tap))?;
        }
        std::io::Seek::rewind(&mut lines)?;
        let mut command = peer::program("ip");
        command.args(["-batch", "-"]).stdin(lines);
        peer::output(command)?;
        Ok(())
    }
}
