// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit keeps its configuration: after a reboot it forwards as before, with nobody to configure it.

use std::time::Instant;

use alpy::{Link, Testbed};
use anyhow::{Context, Result, ensure};
use carrot::ping;

#[tokio::test]
async fn reboot() -> Result<()> {
    Testbed::builder("reboot")
        .description("Check that rabbit keeps its configuration when it reboots.")
        .machine(rabbit::disk_machine()?.without_saved_state())
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;
            ping::answers(bed.node(0), "192.168.1.1").await?;

            let rebooted = Instant::now();
            let mut shell = carrot::reboot(bed, shell).await?;
            let uptime = shell.run("cut -d ' ' -f 1 /proc/uptime").await?;
            let uptime: f64 = uptime.text().trim().parse()?;
            // A system that went on would have been up for longer than that: it was there before.
            let elapsed = rebooted.elapsed().as_secs_f64();
            ensure!(
                uptime < elapsed,
                "expected a system that has started within the last {elapsed:.1} s, saw one that is up for {uptime} s"
            );

            let after = ping::answers(bed.node(0), "192.168.1.1").await;
            after.context("expected traffic after the reboot, with nothing typed in")?;
            ping::answers(bed.node(1), "192.168.0.1").await?;
            carrot::poweroff(bed, shell).await
        })
        .await?;
    Ok(())
}
