// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit gives an address to a client that asks for one.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use alpy::pcap::filter;
use alpy::{Link, Testbed, step};
use anyhow::{Context, Result, ensure};

/// The addresses in `configure-rabbit`.
const POOL: RangeInclusive<Ipv4Addr> = Ipv4Addr::new(192, 168, 0, 100)..=Ipv4Addr::new(192, 168, 0, 120);

const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);

const SOON: Duration = Duration::from_secs(2);

/// What udhcpc runs with what it has got.
const SCRIPT: &str = "#!/bin/sh\necho \"$1 ip=$ip subnet=$subnet router=$router\"\n";

#[tokio::test]
async fn dhcp_server() -> Result<()> {
    Testbed::builder("dhcp-server")
        .description("Check that rabbit gives addresses by DHCP.")
        .machine(rabbit::machine()?)
        .link(Link::new())
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;

            let image = rabbit::image(bed.engine(), "busybox").await?;
            // -n: fail if there is no lease; -q: end once there is one.
            let client = bed
                .node(0)
                .application("udhcpc", &image)?
                .file("/lease", SCRIPT, 0o755)
                .command([
                    "udhcpc", "-f", "-n", "-q", "-t", "10", "-T", "1", "-i", "eth0", "-s", "/lease",
                ])
                .capability("NET_RAW");
            let output = step!("Ask for an address", client.run(bed.engine())).await?;
            let text = format!("{}{}", output.stdout_text(), output.stderr_text());
            let lease = text.lines().find_map(|line| line.strip_prefix("bound "));
            let lease = lease.with_context(|| format!("expected a lease, saw {}: {text}", output.status))?;
            let value = |name: &str| {
                let word = lease
                    .split(' ')
                    .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
                word.with_context(|| format!("expected {name} in the lease, saw {lease}"))
            };
            let address: Ipv4Addr = value("ip")?.parse()?;
            ensure!(
                POOL.contains(&address),
                "expected an address of {POOL:?}, saw {address}"
            );
            ensure!(
                value("subnet")? == "255.255.255.0",
                "expected a network of /24, saw {lease}"
            );
            ensure!(
                value("router")? == ROUTER.to_string(),
                "expected the router itself, saw {lease}"
            );

            // Nobody but the rabbit answers, and the client asks from no address.
            let asked = bed.capture(0).expect(filter::udp_to(67), SOON).await?;
            let source = asked.ip().context("UDP is IP")?.source;
            ensure!(
                source == IpAddr::from([0; 4]),
                "expected a client without address, saw {asked}"
            );
            let (answers, router) = (filter::udp_to(68), filter::ip_from(ROUTER));
            let others = bed
                .capture(0)
                .count(|packet| answers(packet) && !router(packet))?;
            ensure!(
                others == 0,
                "expected answers of the router alone, saw {others} others"
            );
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}
