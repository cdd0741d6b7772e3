// SPDX-License-Identifier: GPL-3.0-or-later
//! The machine is firmware and nothing else: OVMF's own shell, with a driver and a network stack of its own.

use std::time::Duration;

use alpy::console::{Cli, Menu};
use alpy::pcap::filter;
use alpy::qemu::{Firmware, Machine};
use alpy::{Link, Testbed, step};
use alpy_need::need;
use anyhow::{Context, Result, ensure};
use carrot::ping;

use crate::SOON;

/// How long each picture of the firmware may take.
const PICTURE: Duration = Duration::from_secs(60);

/// Has the firmware wait a minute for the key that opens its menu (OVMF reads `etc/boot-menu-wait`, PlatformBootManagerLib). Else it looks
/// for a key for a moment that a busy machine misses, and tries the network for minutes then.
const WAIT_FOR_THE_KEY: [&str; 2] = ["-boot", "menu=on,splash-time=60000"];

/// From the first instruction to the shell: through the menus, for else the firmware would try to boot from the network first. Each key has
/// to have its effect before the next one.
fn to_the_shell() -> Menu {
    Menu::new()
        .press_until(Menu::ESCAPE, "Continue")
        .press(Menu::DOWN)
        .wait_for("take you to the        Device Manager")
        .press(Menu::DOWN)
        .wait_for("take you to the Boot   Manager")
        .press(Menu::ENTER)
        .wait_for("Device Path")
        .press(Menu::DOWN)
        .wait_for("IPv6")
        .press(Menu::DOWN)
        .wait_for("Uri()")
        .press(Menu::DOWN)
        .wait_for("Uri()")
        .press(Menu::DOWN)
        .wait_for("Fv(")
        .press(Menu::ENTER)
        .wait_for("any other key to continue")
        .press(Menu::ENTER)
        .limit(PICTURE)
}

#[tokio::test]
async fn the_shell_of_firmware_pings_a_node_and_answers_it() -> Result<()> {
    need!(docker, qemu, ovmf => Ok(()));
    Testbed::builder("uefi-shell")
        .machine(
            Machine::new()
                .firmware(Firmware::uefi()?)
                .memory_mib(256)
                .extra_arguments(WAIT_FOR_THE_KEY),
        )
        .link(Link::new().address("192.168.0.1/24"))
        .run(async |bed| {
            bed.start_cpu().await?;
            let menu = to_the_shell();
            step!("Go to the shell", menu.choose(bed.console())).await.context(
                "no shell reached; an OVMF of 2026 or later has none: there, boot the one of Debian's package efi-shell-x64 from a disk",
            )?;
            let mut shell = Cli::uefi_shell().open(bed.console()).await?;
            shell
                .run("ifconfig -s eth0 static 192.168.0.2 255.255.255.0 192.168.0.1")
                .await?;
            let pinged = shell.run("ping -n 2 192.168.0.1").await?;
            ensure!(
                pinged.text().contains("2 packets transmitted, 2 received"),
                "{}",
                pinged.text()
            );
            ping::answers(bed.node(0), "192.168.0.2").await?;
            bed.capture(0)
                .expect(filter::icmp_echo_to([192, 168, 0, 1]), SOON)
                .await?;
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}
