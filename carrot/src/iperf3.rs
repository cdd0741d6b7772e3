// SPDX-License-Identifier: GPL-3.0-or-later
//! Throughput between two nodes, measured by iperf3.

use std::time::Duration;

use alpy::docker::Running;
use alpy::{Node, step};
use anyhow::{Context, Result};
use serde_json::Value;

use crate::server;

/// How long a server may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(10);

/// An iperf3 server that listens in a node.
#[derive(Debug)]
pub struct Server(Running);

/// What a client sends.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// TCP as fast as it goes, for some seconds.
    TcpSeconds(u32),
    /// This many bytes over TCP.
    TcpBytes(u32),
    /// This many datagrams of 1,000 bytes over UDP, at 1 Mbit/s.
    UdpDatagrams(u32),
    /// UDP in datagrams of 100 bytes as fast as it goes, for some seconds: many more than arrive.
    UdpFlood(u32),
}

/// What an exchange came to, as the receiver saw it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Report {
    /// Payload received, in bits per second.
    pub bits_per_second: f64,
    /// Datagrams that were lost, of UDP.
    pub lost_datagrams: u64,
}

/// Starts a server in a node; when this returns it listens on TCP and UDP port 5201.
pub async fn serve(node: &Node) -> Result<Server> {
    let image = rabbit::image(node.engine(), "iperf3").await?;
    let start = async {
        let argv = ["iperf3", "--server", "--forceflush"];
        let server = node
            .application("iperf3-server", &image)?
            .command(argv)
            .start(node.engine())
            .await?;
        server.wait_output("Server listening", START_LIMIT).await?;
        anyhow::Ok(Server(server))
    };
    step!(format!("Start iperf3 server on node {}", node.index()), start).await
}

impl Server {
    /// Ends the server.
    ///
    /// # Errors
    /// It has ended before: how, and what it printed.
    pub async fn stop(self) -> Result<()> {
        server::stop(self.0, "SIGTERM").await
    }
}

/// Has a client in a node exchange data with the server at an address.
pub async fn measure(node: &Node, server: &str, load: Load) -> Result<Report> {
    let image = rabbit::image(node.engine(), "iperf3").await?;
    let start = format!("Start iperf3 client on node {}", node.index());
    step!(start, async {
        let client = node
            .application("iperf3-client", &image)?
            .command(argv(server, load));
        let output = step!("Measure rate", client.run(node.engine())).await?;
        step!("Parse iperf3 report", async {
            let text = output.stdout_text();
            let report: Value = serde_json::from_str(&text).with_context(|| {
                format!(
                    "iperf3 ended with {} and said: {text}{}",
                    output.status,
                    output.stderr_text()
                )
            })?;
            parse(&report)
        })
        .await
    })
    .await
}

fn argv(server: &str, load: Load) -> Vec<String> {
    let specific = match load {
        Load::TcpSeconds(seconds) => vec!["--time".to_owned(), seconds.to_string()],
        Load::TcpBytes(bytes) => vec!["--bytes".to_owned(), bytes.to_string()],
        Load::UdpDatagrams(count) => {
            let bytes = count * 1000;
            format!("--udp --length 1000 --bitrate 1M --bytes {bytes}")
                .split(' ')
                .map(str::to_owned)
                .collect()
        }
        Load::UdpFlood(seconds) => format!("--udp --length 100 --bitrate 0 --time {seconds}")
            .split(' ')
            .map(str::to_owned)
            .collect(),
    };
    ["iperf3", "--client", server, "--json"]
        .map(str::to_owned)
        .into_iter()
        .chain(specific)
        .collect()
}

fn parse(report: &Value) -> Result<Report> {
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        anyhow::bail!("iperf3: {error}");
    }
    let end = &report["end"];
    let received = ["sum_received", "sum"]
        .iter()
        .map(|name| &end[name])
        .find(|sum| sum.is_object());
    let received =
        received.with_context(|| format!("the report of iperf3 has no sum of what was received: {end}"))?;
    let bits_per_second = received["bits_per_second"]
        .as_f64()
        .context("the report of iperf3 has no rate")?;
    // Of UDP the client's report has the server's losses in `sum`.
    let lost_datagrams = end["sum"]["lost_packets"].as_u64().unwrap_or(0);
    Ok(Report {
        bits_per_second,
        lost_datagrams,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_received_rate() {
        let report = serde_json::json!({ "end": {
            "sum_sent": { "bits_per_second": 1_048_576.0 }, "sum_received": { "bits_per_second": 976_321.0 } } });
        assert_eq!(
            parse(&report).unwrap(),
            Report {
                bits_per_second: 976_321.0,
                lost_datagrams: 0
            }
        );
    }

    #[test]
    fn says_what_iperf3_says_went_wrong() {
        let error = parse(&serde_json::json!({ "error": "unable to connect" })).unwrap_err();
        assert_eq!(error.to_string(), "iperf3: unable to connect");
        let error = parse(&serde_json::json!({ "end": {} })).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the report of iperf3 has no sum of what was received: {}"
        );
    }
}
