// SPDX-License-Identifier: GPL-3.0-or-later
//! Frames of any kind, sent from a node and received in one as they are.

use std::time::Duration;

use alpy::Node;
use alpy::docker::Running;
use alpy::pcap::{Frame, Reader, Writer};
use anyhow::{Context, Result, ensure};
use tokio::time::{interval, timeout};

use crate::server::while_running;

const IMAGE: &str = "tcpreplay";

/// How long tcpdump may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take to see what has come, and to end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

const LOOK: Duration = Duration::from_millis(20);

/// Frames a second: slow enough for a guest without KVM, whose queues then never overflow.
const RATE: &str = "500";

/// Sends frames from a node, one after the other, with tcpreplay: through a packet socket, so that no protocol has a say.
pub async fn send(node: &Node, frames: &[Vec<u8>]) -> Result<()> {
    let image = rabbit::image(node.engine(), IMAGE).await?;
    let output = node
        .application("tcpreplay", &image)?
        .file("/frames.pcap", file_of(frames)?, 0o644)
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
            // Its buffer has room for so many whole frames, of this length: by itself, for eight.
            "-B",
            "16384",
            "-s",
            "20000",
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

    /// Ends it when it has seen so many frames, or after 10 s; the frames that it has seen.
    ///
    /// # Errors
    /// It has ended before: how, and what it printed.
    pub async fn stop_after(self, count: usize) -> Result<Vec<Vec<u8>>> {
        let mut looks = interval(LOOK);
        let enough = async {
            // At its end it leaves what it has not read yet.
            while frames_in(&self.0.stdout())?.len() < count {
                looks.tick().await;
            }
            anyhow::Ok(())
        };
        // Whoever asks sees which ones are missing.
        if let Ok(done) = timeout(STOP_LIMIT, while_running(&self.0, enough)).await {
            done?;
        }
        let output = self.0.stop("SIGINT", STOP_LIMIT).await?;
        frames_in(&output.stdout)
    }
}

/// The whole frames in what tcpdump has written so far.
fn frames_in(written: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    let read = Reader::new(written, "tcpdump").and_then(|mut reader| {
        while let Some(frame) = reader.next_frame()? {
            frames.push(frame.bytes().to_vec());
        }
        Ok(())
    });
    match read {
        Err(error) if !error.is_torn() => Err(error).context("what tcpdump has written"),
        _ => Ok(frames),
    }
}

/// An IPv4 packet with a time to live of 64 and the right checksum. The options are whole words; the fragment is flags and offset, as
/// they are in the header.
pub fn ipv4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    options: &[u8],
    fragment: u16,
    payload: &[u8],
) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let length = (4 * words + payload.len()) as u16;
    let mut packet = vec![0x40 | words as u8, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(options);
    let words = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// A capture file of these frames.
fn file_of(frames: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut writer = Writer::new(&mut file)?;
    for frame in frames {
        writer.write(&Frame::new(Duration::ZERO, frame))?;
    }
    Ok(file)
}
