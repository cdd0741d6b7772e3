// SPDX-License-Identifier: GPL-3.0-or-later
//! Echo requests from a node.

use std::time::Duration;

use alpy::Node;
use alpy::docker::Running;
use anyhow::{Context, Result, ensure};

/// How many requests one probe sends.
pub const REQUESTS: u32 = 3;

/// Bytes of payload of a request, as ping has it.
const PAYLOAD: u32 = 56;

/// How long a probe waits for its replies.
const PATIENCE: Duration = Duration::from_secs(5);

/// Expects that an address answers every echo request that the node sends it.
pub async fn answers(node: &Node, address: &str) -> Result<()> {
    answers_with(node, address, PAYLOAD).await
}

/// Expects that an address answers every echo request that the node sends it with so many bytes of payload.
pub async fn answers_with(node: &Node, address: &str, payload: u32) -> Result<()> {
    let probe = probe(node, address, PATIENCE, payload).await?;
    ensure!(
        probe.received == REQUESTS,
        "expected {REQUESTS} replies from {address} to node {}, saw {}: {}",
        node.index(),
        probe.received,
        probe.text
    );
    Ok(())
}

/// Expects that no echo request of the node is answered from an address, for a second.
pub async fn is_lost(node: &Node, address: &str) -> Result<()> {
    let probe = probe(node, address, Duration::from_secs(1), PAYLOAD).await?;
    ensure!(
        probe.received == 0,
        "expected no reply from {address} to node {}, saw {}: {}",
        node.index(),
        probe.received,
        probe.text
    );
    Ok(())
}

/// Sends echo requests from a node, ten a second, until it is dropped.
pub async fn without_end(node: &Node, address: &str) -> Result<Running> {
    let image = rabbit::image(node.engine(), "busybox").await?;
    let ping = node
        .application("ping-without-end", &image)?
        .command(["ping", "-i", "0.1", address])
        .capability("NET_RAW");
    Ok(ping.start(node.engine()).await?)
}

struct Probe {
    received: u32,
    text: String,
}

async fn probe(node: &Node, address: &str, patience: Duration, payload: u32) -> Result<Probe> {
    let image = rabbit::image(node.engine(), "busybox").await?;
    let (count, wait) = (REQUESTS.to_string(), patience.as_secs().to_string());
    let size = payload.to_string();
    // -A sends the next request when the last is answered; -w ends it all, but once all are sent, -W does.
    let argv = [
        "ping", "-A", "-c", &count, "-w", &wait, "-W", &wait, "-s", &size, address,
    ];
    let output = node
        .application("ping", &image)?
        .command(argv)
        .capability("NET_RAW")
        .run(node.engine())
        .await?;
    let text = format!("{}{}", output.stdout_text(), output.stderr_text());
    let received = received(&text).with_context(|| format!("ping said: {text}"))?;
    Ok(Probe {
        received,
        text: text.trim().replace('\n', "; "),
    })
}

/// The number of replies in "3 packets transmitted, 2 packets received, 33% packet loss".
fn received(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("packets transmitted, ")?;
    rest.split_once(' ')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::received;

    #[test]
    fn reads_the_summary_of_busybox() {
        let text =
            "--- 192.0.2.1 ping statistics ---\n3 packets transmitted, 2 packets received, 33% packet loss\n";
        assert_eq!(received(text), Some(2));
        assert_eq!(received("ping: sendto: Network is unreachable\n"), None);
    }
}
