// SPDX-License-Identifier: GPL-3.0-or-later
//! The machine is the boot ROM of its NIC, and its command line is all that there is.

use std::time::Duration;

use alpy::console::{Cli, Error, Menu};
use alpy::qemu::Machine;
use alpy::{Link, Testbed, step};
use alpy_need::need;
use anyhow::{Result, ensure};
use carrot::ping;

/// How long the firmware may take until the ROM speaks.
const BOOT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn ipxe_has_the_address_that_it_is_given_and_says_what_it_does_not_know() -> Result<()> {
    need!(docker, qemu => Ok(()));
    // SeaBIOS and iPXE speak on the console where there is no screen.
    let machine = Machine::new().machine_type("pc,graphics=off").network_boot();
    Testbed::builder("ipxe")
        .machine(machine.memory_mib(128))
        .link(Link::new().address("192.168.0.1/24"))
        .run(async |bed| {
            bed.start_cpu().await?;
            let menu = Menu::new()
                .wait_for("Press Ctrl-B for the iPXE command line")
                .press("\x02")
                .limit(BOOT);
            step!("Go to the command line", menu.choose(bed.console())).await?;
            let mut ipxe = Cli::ipxe().open(bed.console()).await?;
            ping::is_lost(bed.node(0), "192.168.0.2").await?;
            ipxe.run("ifopen net0").await?;
            ipxe.run("set net0/ip 192.168.0.2").await?;
            ipxe.run("set net0/netmask 255.255.255.0").await?;
            ping::answers(bed.node(0), "192.168.0.2").await?;
            for command in ["traceroute 192.168.0.1", "ifopen net7"] {
                let error = ipxe.run(command).await.unwrap_err();
                ensure!(matches!(error, Error::Command { .. }), "{command}: {error}");
            }
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}
