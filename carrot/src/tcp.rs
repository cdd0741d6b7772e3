// SPDX-License-Identifier: GPL-3.0-or-later
//! TCP connections from a node.

use alpy::Node;
use anyhow::{Result, ensure};

/// Expects that nothing answers the node when it asks an address for a connection, for a second: neither yes nor no.
pub async fn is_dropped(node: &Node, address: &str, port: u16) -> Result<()> {
    let image = rabbit::image(node.engine(), "busybox").await?;
    let output = node
        .application("nc", &image)?
        .command(["nc", "-w", "1", address, &port.to_string()])
        .run(node.engine())
        .await?;
    let text = format!("{}{}", output.stdout_text(), output.stderr_text());
    ensure!(
        output.status.code() != 0 && text.contains("timed out"),
        "expected no answer from {address}:{port} to node {}, saw {}: {text}",
        node.index(),
        output.status
    );
    Ok(())
}
