// SPDX-License-Identifier: GPL-3.0-or-later
//! Cables that are pulled: what the guest sees of it, what the node sees, and what arrives.

use std::cell::Cell;
use std::time::Duration;

use alpy::console::RemoteShell;
use alpy::pcap::filter;
use alpy::{CableEnd, Link, Testbed, TestbedBuilder};
use alpy_need::need;
use anyhow::{Context, Result, bail, ensure};
use carrot::iperf3::{self, Load};
use carrot::ping;

const NODES: [&str; 2] = ["192.168.0.1", "192.168.1.1"];

/// Frames must pass again so soon after all cables are plugged. The time in which the host starves the guest does not count.
const RECOVERY: Duration = Duration::from_secs(6);

fn bed(test: &str) -> Result<TestbedBuilder> {
    let link = |net: u8| {
        Link::new()
            .address(format!("192.168.{net}.1/24"))
            .gateway(format!("192.168.{net}.2"))
    };
    Ok(Testbed::builder(test)
        .machine(rabbit::machine()?)
        .link(link(0))
        .link(link(1)))
}

async fn router(bed: &Testbed) -> Result<RemoteShell> {
    bed.start_cpu().await?;
    let mut shell = carrot::login(bed).await?;
    carrot::configure(&mut shell, "configure-router", include_str!("configure-router")).await?;
    Ok(shell)
}

/// Waits until the guest's end of link 0 has this carrier, and expects this one of the node's.
async fn carriers(bed: &Testbed, shell: &mut RemoteShell, guest: bool, node: bool) -> Result<()> {
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..200 {
        looks.tick().await;
        let seen = shell.run("cat /sys/class/net/eth0/carrier").await?;
        if seen.text().trim() == if guest { "1" } else { "0" } {
            let state = bed.node(0).link_state()?;
            ensure!(
                state.carrier == node,
                "expected a carrier {node} at the node, saw {state:?}"
            );
            return Ok(());
        }
    }
    bail!("the guest does not see a carrier {guest} within 10 s")
}

#[tokio::test]
async fn a_cable_is_pulled_and_plugged() -> Result<()> {
    need!(docker, qemu => Ok(()));
    bed("cables")?
        .run(async |bed| {
            let (mut shell, cable) = (router(bed).await?, bed.cable(0));
            ping::answers(bed.node(0), NODES[1]).await?;

            cable.unplug().await?;
            carriers(bed, &mut shell, false, false).await?;
            let pulled = bed.capture(0).mark("pulled")?;
            ping::is_lost(bed.node(0), NODES[1]).await?;
            let while_pulled = bed.capture(0).since(&pulled)?;
            ensure!(
                while_pulled.count(|_| true)? == 0,
                "a pulled cable carries nothing"
            );
            cable.plug().await?;
            carriers(bed, &mut shell, true, true).await?;
            ping::answers(bed.node(0), NODES[1]).await?;

            cable.unplug_end(CableEnd::Machine).await?;
            carriers(bed, &mut shell, false, true).await?;
            ping::is_lost(bed.node(0), NODES[1]).await?;
            cable.plug_end(CableEnd::Machine).await?;
            cable.unplug_end(CableEnd::Node).await?;
            carriers(bed, &mut shell, true, false).await?;
            ping::is_lost(bed.node(0), NODES[1]).await?;
            cable.plug_end(CableEnd::Node).await?;
            ping::answers(bed.node(0), NODES[1]).await?;

            let cut = bed.capture(0).mark("cut")?;
            cable.blackhole().await?;
            cable.blackhole().await?;
            carriers(bed, &mut shell, true, true).await?;
            ping::is_lost(bed.node(0), NODES[1]).await?;
            ping::is_lost(bed.node(1), NODES[0]).await?;
            let while_cut = bed.capture(0).since(&cut)?;
            // The node's requests are in front of the cut, what the router forwards to the node is behind it.
            let from_node = filter::icmp_echo_to([192, 168, 1, 1]);
            while_cut.expect(from_node, Duration::ZERO).await?;
            while_cut
                .expect_none(filter::ip_from([192, 168, 1, 1]), Duration::ZERO)
                .await?;
            cable.plug().await?;
            ping::answers(bed.node(0), NODES[1]).await?;

            let changes = async |shell: &mut RemoteShell| -> Result<u32> {
                let text = shell.run("cat /sys/class/net/eth0/carrier_changes").await?;
                Ok(text.text().trim().parse()?)
            };
            let before = changes(&mut shell).await?;
            // Long enough for a guest that gets no time now and then: it sees what is so when it looks.
            cable.flap(Duration::from_secs(2), 2).await?;
            carriers(bed, &mut shell, true, true).await?;
            let seen = changes(&mut shell).await? - before;
            ensure!(seen == 4, "expected the guest to see 4 changes, saw {seen}");
            ping::answers(bed.node(0), NODES[1]).await
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_machine_boots_unplugged() -> Result<()> {
    need!(docker, qemu => Ok(()));
    Testbed::builder("boot-unplugged")
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.0.1/24").boot_unplugged())
        .link(Link::new().address("192.168.1.1/24"))
        .run(async |bed| {
            bed.start_cpu().await?;
            ensure!(!bed.is_restored(), "it boots");
            let mut shell = carrot::login(bed).await?;
            shell.run("ip link set eth0 up && ip link set eth1 up").await?;
            carriers(bed, &mut shell, false, false).await?;
            let other = shell.run("cat /sys/class/net/eth1/carrier").await?;
            ensure!(other.text().trim() == "1", "the other link is plugged");
            bed.cable(0).plug().await?;
            carriers(bed, &mut shell, true, true).await?;
            shell.run("ip address add 192.168.0.2/24 dev eth0").await?;
            ping::answers(bed.node(0), "192.168.0.2").await
        })
        .await?;
    Ok(())
}

/// Whatever is done to the cables, what passed the taps is in the captures: that is compared at the end of each test.
#[tokio::test]
async fn cables_are_pulled_at_random_while_traffic_runs() -> Result<()> {
    need!(docker, qemu => Ok(()));
    bed("cables-at-random")?
        .run(async |bed| {
            let _shell = router(bed).await?;
            let server = iperf3::serve(bed.node(1)).await?;
            let sent = || Ok::<_, anyhow::Error>(bed.node(0).link_state()?.counters.tx_packets);
            let over = Cell::new(false);
            let flood = async {
                // The client's connection may not survive it, which is not what is looked at.
                let _ = iperf3::measure(bed.node(0), NODES[1], Load::UdpFlood(8)).await;
                over.set(true);
            };
            let pulls = async {
                let mut looks = tokio::time::interval(Duration::from_millis(5));
                let mut number = 0_usize;
                loop {
                    // Each time in the middle of traffic. A guest may take a second to notice that it has its cable again.
                    let (began, mut recovery) = (sent()?, bed.qemu().timer()(RECOVERY));
                    while sent()? < began + 50 && !over.get() {
                        tokio::select! {
                            _ = looks.tick() => {}
                            () = &mut recovery => bail!("no frames pass {RECOVERY:?} after pull {number}"),
                        }
                    }
                    if over.get() {
                        return Ok(number);
                    }
                    let cable = bed.cable(number % 2);
                    match number * 7 % 5 {
                        0 => cable.unplug().await?,
                        1 => cable.unplug_end(CableEnd::Machine).await?,
                        2 => cable.unplug_end(CableEnd::Node).await?,
                        3 => cable.blackhole().await?,
                        _ => cable.flap(Duration::from_millis(40), 2).await?,
                    }
                    cable.plug().await?;
                    number += 1;
                }
            };
            let ((), pulls) = tokio::join!(flood, pulls);
            let number = pulls?;
            ensure!(
                number >= 5,
                "expected cables to be pulled while frames pass, saw {number} pulls"
            );
            ping::answers(bed.node(0), NODES[1])
                .await
                .context("all cables are plugged")?;
            server.stop().await
        })
        .await?;
    Ok(())
}
