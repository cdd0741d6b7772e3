// SPDX-License-Identifier: GPL-3.0-or-later
//! How long a frame takes from its sender in a node to whoever follows the link's capture.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use alpy::docker::Container;
use alpy::pcap::Capture;
use alpy::{Link, Testbed};
use anyhow::{Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::figure::{note, print};
use crate::measure::quantile;
use crate::{Extent, order, testbed};

/// Between two frames, in seconds as ping takes them.
const PAUSE: &str = "0.002";
const LIMIT: Duration = Duration::from_secs(60);

/// Says when all that was there before has been read.
type Ready = oneshot::Sender<()>;
/// Follows a capture until it has seen so many frames.
type Follow = fn(&Path, usize, Ready) -> Result<Vec<f64>>;

const SUBJECTS: [(&str, Follow); 3] = [
    ("spinning bare reader", |path, frames, ready| {
        bare(path, frames, ready, || Ok(()))
    }),
    ("bare reader, woken by inotify", |path, frames, ready| {
        let changes = Changes::of(path)?;
        bare(path, frames, ready, || changes.wait())
    }),
    ("alpy-pcap, following", ours),
];

/// Measures it, all on one link to a rabbit.
pub(super) fn measure(extent: &Extent) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let link = Link::new().address("10.0.0.1/24").gateway("10.0.0.2");
    let bed = Testbed::builder("bench-live")
        .machine(rabbit::machine()?)
        .link(link);
    runtime.block_on(bed.run(async |bed: &Testbed| -> Result<()> {
        bed.start_cpu().await?;
        let mut shell = carrot::login(bed).await?;
        carrot::configure(&mut shell, "configure", &testbed::script(1)).await?;
        let image = rabbit::image(bed.engine(), "busybox").await?;
        for run in 0..extent.runs {
            note(&format!("pcap: live, run {} of {}", run + 1, extent.runs));
            for index in order(SUBJECTS.len(), run) {
                let (subject, follow) = SUBJECTS[index];
                let path = bed.capture(0).path().to_owned();
                let frames = extent.size.frames;
                let count = frames.to_string();
                let ping = ["ping", "-q", "-i", PAUSE, "-c", &count, "10.0.0.2"];
                let ping = bed.node(0).application("ping", &image)?.command(ping);
                let follow = move |ready| follow(&path, frames, ready);
                let mut delays = delays(ping.capability("NET_RAW"), bed, follow).await?;
                print("live", "median, us", subject, quantile(&mut delays, 0.5));
                print("live", "p99, us", subject, quantile(&mut delays, 0.99));
            }
        }
        Ok(())
    }))?;
    Ok(())
}

/// Follows the capture while the container sends.
async fn delays(
    ping: Container,
    bed: &Testbed,
    follow: impl FnOnce(Ready) -> Result<Vec<f64>> + Send + 'static,
) -> Result<Vec<f64>> {
    let (ready, waiting) = oneshot::channel();
    let follower = tokio::task::spawn_blocking(move || follow(ready));
    // One that fails before says why below.
    if waiting.await.is_ok() {
        ping.run(bed.engine()).await?.success()?;
    }
    follower.await?
}

/// Microseconds from the moment that a request of BusyBox's ping has in it; none if the frame is no such request. The moment is the
/// low 32 bits of CLOCK_MONOTONIC, which is the same in all containers.
fn delay(frame: &[u8]) -> Option<f64> {
    // Ethernet, IPv4 without options, ICMP: no decoder of either side is measured.
    const ETHER_TYPE: usize = 12;
    const PROTOCOL: usize = 23;
    const ICMP: usize = 34;
    let is_request = frame.get(ETHER_TYPE..ETHER_TYPE + 2)? == [8, 0]
        && frame.get(PROTOCOL) == Some(&1)
        && frame.get(ICMP) == Some(&8);
    let sent = frame.get(ICMP + 8..)?.first_chunk().copied()?;
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?).as_micros();
    // Both wrap around.
    is_request.then(|| f64::from((now as u32).wrapping_sub(u32::from_le_bytes(sent))))
}

/// The limit: it checks nothing. Where it does not wait, it takes a whole processor.
fn bare(path: &Path, frames: usize, ready: Ready, wait: impl Fn() -> Result<()>) -> Result<Vec<f64>> {
    const HEADER: usize = 16;
    let began = Instant::now();
    let mut file = File::open(path)?;
    file.read_exact(&mut [0; 24])?;
    let mut ready = Some(ready);
    let mut delays = Vec::with_capacity(frames);
    let mut buffer = vec![0; 1 << 20];
    let mut filled = 0;
    while delays.len() < frames {
        let count = file.read(&mut buffer[filled..])?;
        if count == 0 {
            if let Some(ready) = ready.take() {
                tell(ready);
            }
            ensure!(began.elapsed() < LIMIT, "saw {} of {frames} frames", delays.len());
            wait()?;
            continue;
        }
        filled += count;
        let mut start = 0;
        while let Some(head) = buffer[start..filled].first_chunk::<HEADER>() {
            let length = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
            let Some(bytes) = buffer[start..filled].get(HEADER..HEADER + length) else {
                break;
            };
            if ready.is_none() {
                delays.extend(delay(bytes));
            }
            start += HEADER + length;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
    Ok(delays)
}

fn ours(path: &Path, frames: usize, ready: Ready) -> Result<Vec<f64>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let follow = async {
        let mut follower = Capture::open(path)?.follow()?;
        while follower.try_next_packet()?.is_some() {}
        tell(ready);
        let mut delays = Vec::with_capacity(frames);
        while delays.len() < frames {
            let packet = follower.next_packet().await?;
            delays.extend(packet.and_then(|packet| delay(packet.frame().bytes())));
        }
        Ok(delays)
    };
    runtime.block_on(async { timeout(LIMIT, follow).await })?
}

/// Wakes at each change of a file.
struct Changes(Inotify);

impl Changes {
    fn of(path: &Path) -> Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        Ok(Self(inotify))
    }

    /// Not longer than a second, for the limit of those who wait.
    fn wait(&self) -> Result<()> {
        let mut waiting = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::from(1000_u16))? > 0 {
            self.0.read_events()?;
        }
        Ok(())
    }
}

fn tell(ready: Ready) {
    // Nobody waits where the test is over, which the one who ends it says.
    let _ = ready.send(());
}
