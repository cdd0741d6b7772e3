// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit spreads HTTP requests to one address over two servers, and goes on with one when the other one stops.

use alpy::pcap::Capture;
use alpy::{Link, Testbed, step};
use anyhow::{Result, ensure};
use carrot::http;
use tracing::info;

/// The address that the clients know, of the rabbit.
const VIRTUAL: &str = "192.168.0.2";

/// How many requests are sent at a time.
const REQUESTS: u32 = 20;

/// The names of the servers, each on the link of that node.
const SERVERS: [(usize, &str); 2] = [(1, "one"), (2, "two")];

#[tokio::test]
async fn load_balancing() -> Result<()> {
    Testbed::builder("load-balancing")
        .description("Check that rabbit balances HTTP requests between servers.")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.0.1/24"))
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .link(Link::new().address("192.168.2.1/24").gateway("192.168.2.2"))
        .run(async |bed| {
            let one = http::serve(bed.node(1), "one").await?;
            let _two = http::serve(bed.node(2), "two").await?;
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;

            carrot::judged(bed, async || {
                let marks = SERVERS.map(|(link, _)| bed.capture(link).mark("requests"));
                let pages = step!("Send requests", http::requests(bed.node(0), VIRTUAL, REQUESTS)).await?;
                info!("Pages by server: {pages:?}");
                let mut uneven = None;
                for ((link, name), mark) in SERVERS.into_iter().zip(marks) {
                    // The wire says the same, so no page came from elsewhere. Health checks have no page to ask for.
                    let seen = page_requests(&bed.capture(link).since(&mark?)?)?;
                    let counted = pages.get(name).copied().unwrap_or(0);
                    ensure!(
                        seen == counted as usize,
                        "expected {counted} requests on link {link}, saw {seen}"
                    );
                    // A server whose health check runs late gets fewer requests.
                    let share = http::share(&pages, name)?;
                    if !(0.4..=0.6).contains(&share) {
                        let percent = 100.0 * share;
                        uneven = Some(format!(
                            "expected 40 to 60 % of the pages from {name}, saw {percent:.0} %"
                        ));
                    }
                }
                Ok(uneven)
            })
            .await?;

            step!("Stop server one", one.stop()).await?;
            let pages = step!("Send requests", http::requests(bed.node(0), VIRTUAL, REQUESTS)).await?;
            let share = http::share(&pages, "two")?;
            ensure!(
                share == 1.0,
                "expected all pages from the server that is left, saw {pages:?}"
            );
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}

/// How many requests for the page a link saw.
fn page_requests(capture: &Capture) -> Result<usize> {
    let asks = |payload: &[u8]| payload.starts_with(b"GET /?request=");
    Ok(capture.count(|packet| packet.tcp().is_some() && asks(packet.payload()))?)
}
