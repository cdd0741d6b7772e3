// SPDX-License-Identifier: GPL-3.0-or-later
//! The verdict of each probe can be red: the appliance, a server or the testbed is broken in the way that a probe is there to notice,
//! and it says so.

use std::time::Duration;

use alpy::pcap::filter;
use alpy::{Link, Testbed, TestbedBuilder};
use alpy_need::need;
use anyhow::{Context, Result, ensure};
use carrot::iperf3::{self, Load};
use carrot::{frames, http, ping, rate, tcp, wire};
use serde_json::json;

const SERVER: &str = "192.168.1.1";
const SERVER_OCTETS: [u8; 4] = [192, 168, 1, 1];

/// Expects a red verdict, in these words.
fn red<T>(verdict: Result<T>, words: &str) -> Result<()> {
    let Err(error) = verdict else {
        anyhow::bail!("expected {words:?}, and the verdict is green");
    };
    let text = format!("{error:#}");
    ensure!(text.contains(words), "expected {words:?}, saw {text:?}");
    Ok(())
}

/// A rabbit that is to forward between 192.168.0.0/24 and 192.168.1.0/24.
fn between_two_networks(test: &str) -> Result<TestbedBuilder> {
    let link = |net: u8| {
        Link::new()
            .address(format!("192.168.{net}.1/24"))
            .gateway(format!("192.168.{net}.2"))
    };
    let bed = Testbed::builder(test).machine(rabbit::machine()?);
    Ok(bed.link(link(0)).link(link(1)))
}

#[tokio::test]
async fn a_probe_notices_what_it_is_there_for() -> Result<()> {
    need!(docker, qemu => Ok(()));
    let failure = between_two_networks("verdicts")?
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-router", include_str!("configure-router")).await?;
            let client = bed.node(0);

            red(
                carrot::configure(&mut shell, "fails", "#!/bin/sh\nexit 3\n").await,
                "'/root/fails'` ended with code 3",
            )?;
            red(
                ping::is_lost(client, SERVER).await,
                "expected no reply from 192.168.1.1 to node 0, saw 3",
            )?;
            // The server says no, which is an answer.
            red(
                tcp::is_dropped(client, SERVER, 81).await,
                "expected no answer from 192.168.1.1:81 to node 0",
            )?;
            red(
                iperf3::measure(client, SERVER, Load::TcpSeconds(1)).await,
                "iperf3: unable to connect to server: Connection refused",
            )?;
            red(
                frames::send(client, &[vec![0; 1600]]).await,
                "expected tcpreplay to send 1 frames",
            )?;
            red(
                wire::forwarded(bed.capture(0), bed.capture(1), filter::tcp_to(4321)),
                "link0.pcap, saw none",
            )?;

            // A client that did not see the server end would retry for a minute.
            let image = rabbit::image(bed.node(1).engine(), "http").await?;
            let server = bed
                .node(1)
                .application("http-server", &image)?
                .command(["httpd", "-f", "-p", "80", "-h", "/nowhere"])
                .start(bed.node(1).engine())
                .await?;
            red(
                http::listens(bed.node(1), &server).await,
                "can't change directory to '/nowhere'",
            )?;
            let server = http::serve(bed.node(1), "server").await?;
            let pages = http::requests(client, SERVER, 2).await?;
            ensure!(http::share(&pages, "other")? == 0.0, "no other server has answered");
            server.stop().await?;
            red(http::requests(client, SERVER, 2).await, "curl: (7)")?;
            red(http::share(&[].into(), "server"), "no page was counted")?;

            shell
                .run("nft 'add table ip t; add chain ip t f {type filter hook forward priority 0;}; add rule ip t f icmp type echo-request drop'")
                .await
                .context("sabotage the router")?;
            let before = bed.capture(0).mark("sabotaged")?;
            red(
                ping::answers_with(client, SERVER, 1000).await,
                "expected 3 replies from 192.168.1.1 to node 0, saw 0",
            )?;
            red(
                wire::forwarded(
                    &bed.capture(0).since(&before)?,
                    bed.capture(1),
                    filter::icmp_echo_to(SERVER_OCTETS),
                ),
                "link1.pcap with a time to live of 63, saw no such packet",
            )?;
            let nothing_comes = async || Ok(());
            red(
                rate::expect(bed, 1, filter::udp_to(4321), 0.9..=1.0, nothing_comes).await,
                "on link 1: expected traffic, saw none",
            )?;

            let flow = wire::Flow::begin(bed, 0)?;
            let off = json!({"path": "/objects/capture0", "property": "status", "value": "off"});
            bed.qmp().execute_raw("qom-set", off).await?;
            ping::is_lost(client, SERVER).await?;
            red(flow.end().await, "frames that passed the tap of link 0 in its capture, saw 0")?;
            carrot::poweroff(bed, shell).await
        })
        .await;
    let text = match failure {
        Ok(()) => anyhow::bail!("the testbed has not noticed that its capture is not complete"),
        Err(failure) => failure.to_string(),
    };
    ensure!(
        text.contains("its body passed, its teardown did not") && text.contains("link0.pcap is not complete"),
        "{text}"
    );
    Ok(())
}

#[tokio::test]
async fn a_failure_shows_how_far_the_packets_came() -> Result<()> {
    need!(docker, qemu => Ok(()));
    let failure = between_two_networks("no-forwarding")?
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            let quiet = "sysctl -w net.ipv6.conf.all.disable_ipv6=1";
            let up = "ip address add 192.168.0.2/24 dev eth0 && ip link set eth0 up";
            // All but `net.ipv4.ip_forward=1`.
            shell.run(format!("{quiet} && {up}")).await?;
            ping::answers(bed.node(0), SERVER).await
        })
        .await;
    let text = match failure {
        Ok(()) => anyhow::bail!("expected no reply"),
        Err(failure) => failure.to_string(),
    };
    println!("{text}");
    let (_, wire) = text
        .split_once("\n  last on link 0, of ")
        .context("nothing of link 0")?;
    ensure!(
        wire.contains("from node 0") && wire.contains("192.168.0.1 > 192.168.1.1"),
        "{text}"
    );
    ensure!(wire.contains("\n  nothing on link 1\n"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_guest_that_stays_on_is_not_powered_off() -> Result<()> {
    need!(docker, qemu => Ok(()));
    Testbed::builder("stays-on")
        .machine(rabbit::machine()?)
        .run(async |bed| {
            bed.start_cpu().await?;
            carrot::login(bed).await?;
            let down = bed.wait_powered_down(Duration::from_millis(300)).await;
            red(down.map_err(Into::into), "SHUTDOWN")
        })
        .await?;
    Ok(())
}
