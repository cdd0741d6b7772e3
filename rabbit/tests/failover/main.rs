// SPDX-License-Identifier: GPL-3.0-or-later
//! Two rabbits share an address by VRRP. One of them loses its power, and the other one takes over.

use std::time::{Duration, Instant};

use alpy::pcap::filter;
use alpy::{DirectLink, Link, Testbed};
use anyhow::{Context, Result};
use carrot::ping;
use tracing::info;

/// An address behind the routers.
const SERVER: &str = "192.168.1.1";
const SERVER_OCTETS: [u8; 4] = [192, 168, 1, 1];

/// The address that the routers share in the client's network.
const SHARED: [u8; 4] = [192, 168, 0, 254];

/// The machines: two routers, and a third rabbit that is the switches between them and the nodes.
const ROUTERS: [usize; 2] = [0, 1];
const SWITCH: usize = 2;

/// The client's link, and the routers' links to its network.
const CLIENT: usize = 0;
const INSIDE: [usize; 2] = [2, 3];

/// How long the election may take on a busy machine.
const ELECTION: Duration = Duration::from_secs(20);

/// How long traffic may stand still. A router is given up after three adverts of 0.3 s and a part of one have not come (RFC 5798, 6.1).
const BOUND: Duration = Duration::from_secs(4);

#[tokio::test]
async fn failover() -> Result<()> {
    let node = |net: u8| {
        Link::new()
            .machine(SWITCH)
            .address(format!("192.168.{net}.1/24"))
            .gateway(format!("192.168.{net}.254"))
    };
    let to_switch = |router: usize| DirectLink::between(SWITCH, router);
    Testbed::builder("failover")
        .description("Check that a router takes over when another one loses its power.")
        .machine(rabbit::machine()?)
        .machine(rabbit::machine()?)
        .machine(rabbit::machine()?)
        .link(node(0))
        .link(node(1))
        .direct_link(to_switch(0))
        .direct_link(to_switch(1))
        .direct_link(to_switch(0))
        .direct_link(to_switch(1))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut switch = carrot::login(bed.dut(SWITCH)).await?;
            carrot::configure(&mut switch, "configure-switch", include_str!("configure-switch")).await?;
            for (router, priority) in ROUTERS.into_iter().zip(["150", "100"]) {
                let mut shell = carrot::login(bed.dut(router)).await?;
                let script = include_str!("configure-rabbit")
                    .replace("OWN", &(router + 2).to_string())
                    .replace("PRIORITY", priority);
                carrot::configure(&mut shell, "configure-rabbit", &script).await?;
            }
            let _pings = ping::without_end(bed.node(CLIENT), SERVER).await?;
            let [first, second] = INSIDE.map(|link| bed.capture(link));
            first
                .expect(filter::icmp_reply_from(SERVER_OCTETS), ELECTION)
                .await
                .context("expected replies by way of the first router")?;
            // A starved router sends its adverts late, so the other router rightly takes over for a while.
            carrot::judged(bed, async || {
                let running = second.mark("running")?;
                first
                    .since(&first.mark("running")?)?
                    .expect(filter::icmp_reply_from(SERVER_OCTETS), BOUND)
                    .await?;
                let astray = second
                    .since(&running)?
                    .count(filter::icmp_reply_from(SERVER_OCTETS))?;
                Ok((astray > 0)
                    .then(|| format!("expected no reply by way of the other router, saw {astray}")))
            })
            .await?;

            let (killed, announced) = (second.mark("killed")?, bed.capture(CLIENT).mark("killed")?);
            let began = Instant::now();
            bed.cut_power(ROUTERS[0]).await?;
            second
                .since(&killed)?
                .expect(filter::icmp_reply_from(SERVER_OCTETS), BOUND)
                .await
                .context("expected replies by way of the other router after the first one lost its power")?;
            info!("The other router takes over after {:.0?}", began.elapsed());
            // The switches and the client learn from it where the shared address is now.
            bed.capture(CLIENT)
                .since(&announced)?
                .expect(filter::arp_request_for(SHARED), Duration::ZERO)
                .await
                .context("expected the other router to announce the shared address")?;
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}
