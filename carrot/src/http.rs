// SPDX-License-Identifier: GPL-3.0-or-later
//! HTTP servers in nodes, and requests from nodes.

use std::collections::BTreeMap;

use alpy::docker::Running;
use alpy::{Node, step};
use anyhow::{Context, Result, ensure};

use crate::server::{self, while_running};

/// An HTTP server on port 80 of a node, whose page is the name that it was given.
#[derive(Debug)]
pub struct Server(Running);

/// Starts a server in a node; when this returns it answers requests.
pub async fn serve(node: &Node, name: &str) -> Result<Server> {
    let image = rabbit::image(node.engine(), "http").await?;
    let start = async {
        // The container has no file of its own to serve: the page is put there before the server starts.
        let server = node
            .application("http-server", &image)?
            .file("/www/index.html", format!("{name}\n"), 0o644)
            .command(["httpd", "-f", "-vv", "-p", "80", "-h", "/www"])
            .start(node.engine())
            .await?;
        let own = first_page(node, &server).await?;
        ensure!(
            own.trim() == name,
            "expected the page {name:?} from the server itself, saw {own:?}"
        );
        anyhow::Ok(Server(server))
    };
    step!(format!("Start HTTP server on node {}", node.index()), start).await
}

impl Server {
    /// Ends the server, as an outage would: at once.
    pub async fn stop(self) -> Result<()> {
        server::stop(self.0, "SIGKILL").await
    }
}

/// Waits until a server of the caller's own answers on port 80 of its node.
///
/// # Errors
/// The server ends: how, and what it printed. Nothing answers within some 50 s.
pub async fn listens(node: &Node, server: &Running) -> Result<()> {
    first_page(node, server).await.map(drop)
}

/// The page at `/`. A server says nothing when it begins to listen: until then, connections are refused.
async fn first_page(node: &Node, server: &Running) -> Result<String> {
    let image = rabbit::image(node.engine(), "http").await?;
    let argv = "curl --silent --show-error --retry 50 --retry-connrefused --retry-delay 1 http://127.0.0.1/";
    let client = node.application("http-client", &image)?.command(argv.split(' '));
    let asked = async { Ok(client.run(node.engine()).await?.success()?) };
    Ok(while_running(server, asked).await?.stdout_text().into_owned())
}

/// Sends requests from a node, one after the other and each over a connection of its own, and counts the pages that came back
/// by their text.
///
/// # Errors
/// A request that fails is an error, whatever the other ones did.
pub async fn requests(node: &Node, address: &str, count: u32) -> Result<BTreeMap<String, u32>> {
    let image = rabbit::image(node.engine(), "http").await?;
    let url = format!("http://{address}/?request=[1-{count}]");
    let argv = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--fail-early",
        "--max-time",
        "60",
        "--header",
        "Connection: close",
    ];
    let argv = argv.into_iter().chain([url.as_str()]);
    let client = node.application("http-client", &image)?.command(argv);
    let output = client.run(node.engine()).await?.success()?;
    let text = output.stdout_text();
    let mut pages = BTreeMap::new();
    for page in text.lines() {
        *pages.entry(page.to_owned()).or_default() += 1;
    }
    let answered: u32 = pages.values().sum();
    ensure!(
        answered == count,
        "expected {count} pages from {address}, saw {answered}: {pages:?}"
    );
    Ok(pages)
}

/// The share of a server among pages that were counted, between 0 and 1.
pub fn share(pages: &BTreeMap<String, u32>, name: &str) -> Result<f64> {
    let all: u32 = pages.values().sum();
    let of = pages.get(name).copied().unwrap_or(0);
    (all > 0)
        .then(|| f64::from(of) / f64::from(all))
        .context("no page was counted")
}
