// SPDX-License-Identifier: GPL-3.0-or-later
//! Frames of any kind, sent from a node and received in one as they are.

use std::time::Duration;

use alpy::Node;
use alpy::docker::Running;
use alpy::pcap::Reader;
use anyhow::{Context, Result, ensure};

const IMAGE: &str = "tcpreplay";

/// How long tcpdump may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Frames a second: slow enough for a guest without KVM, whose queues then never overflow.
const RATE: &str = "500";

/// Sends frames from a node, one after the other, with tcpreplay: through a packet socket, so that no protocol has a say.
pub async fn send(node: &Node, frames: &[Vec<u8>]) -> Result<()> {
    let image = rabbit::image(node.engine(), IMAGE).await?;
    let output = node
        .application("tcpreplay", &image)?
        .file("/frames.pcap", file_of(frames), 0o644)
        .command([
            "tcpreplay",
            "--intf1=eth0",
            &format!("--pps={RATE}"),
            "/frames.pcap",
        ])
        .capability("NET_RAW")
        .run(node.engine())
        .await?
        .success()?;
    let text = output.stdout_text();
    ensure!(
        text.contains(&format!("Successful packets:        {}", frames.len())),
        "expected tcpreplay to send {} frames, it says: {text}{}",
        frames.len(),
        output.stderr_text()
    );
    Ok(())
}

/// A tcpdump in a node that writes down each frame that comes or goes there.
#[derive(Debug)]
pub struct Listener(Running);

impl Listener {
    /// Starts it; when this returns it listens.
    pub async fn start(node: &Node) -> Result<Self> {
        let image = rabbit::image(node.engine(), IMAGE).await?;
        let tcpdump = [
            "tcpdump",
            "-i",
            "eth0",
            "-Z",
            "root",
            "--immediate-mode",
            "-U",
            "-w",
            "-",
        ];
        let listener = node
            .application("tcpdump", &image)?
            // It becomes the user that it is told, even if it is that one already.
            .file("/etc/passwd", "root:x:0:0:root:/:/bin/false\n", 0o644)
            .command(tcpdump)
            .capability("NET_RAW")
            .capability("SETGID")
            .capability("SETUID")
            .start(node.engine())
            .await?;
        listener.wait_output("listening on", START_LIMIT).await?;
        Ok(Self(listener))
    }

    /// Ends it; the frames that it has seen.
    pub async fn stop(self) -> Result<Vec<Vec<u8>>> {
        let output = self.0.stop("SIGINT", START_LIMIT).await?;
        let mut reader = Reader::new(&output.stdout[..], "tcpdump")?;
        let mut frames = Vec::new();
        while let Some(frame) = reader.next_frame().context("what tcpdump has written")? {
            frames.push(frame.bytes().to_vec());
        }
        Ok(frames)
    }
}

/// A capture file of these frames.
fn file_of(frames: &[Vec<u8>]) -> Vec<u8> {
    const LONGEST: u32 = 262_144;
    let mut file = Vec::new();
    let number = |file: &mut Vec<u8>, number: u32| file.extend(number.to_le_bytes());
    number(&mut file, 0xa1b2_c3d4);
    file.extend([2, 0, 4, 0]);
    for field in [0, 0, LONGEST, 1] {
        number(&mut file, field);
    }
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap_or(LONGEST);
        for field in [0, 0, length, length] {
            number(&mut file, field);
        }
        file.extend(frame);
    }
    file
}
