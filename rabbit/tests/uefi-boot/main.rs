// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit boots from its disk by UEFI, and neither the firmware's variables nor the disk's image change.

use alpy::qemu::{Firmware, checksum};
use alpy::{Link, Testbed};
use anyhow::{Result, bail, ensure};
use carrot::ping;

#[tokio::test]
async fn uefi_boot() -> Result<()> {
    let firmware = Firmware::uefi()?;
    let Firmware::Uefi { variables, .. } = &firmware else {
        bail!("expected UEFI, saw {firmware:?}");
    };
    let files = [variables.clone(), rabbit::disk_image()?];
    let before = files.each_ref().map(checksum);
    let machine = rabbit::disk_machine()?.firmware(firmware);
    Testbed::builder("uefi-boot")
        .description("Check that rabbit boots from its disk by UEFI.")
        .machine(machine.without_saved_state())
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;

            // The kernel shows it only if the firmware that started it has handed over UEFI's tables.
            let uefi = shell
                .command("cat /sys/firmware/efi/fw_platform_size")
                .ignore_status();
            let uefi = uefi.run().await?;
            ensure!(
                uefi.code == 0 && uefi.text().trim() == "64",
                "expected a system that UEFI has booted, saw {:?}",
                uefi.text()
            );
            ping::answers(bed.node(0), "192.168.1.1").await?;
            ping::answers(bed.node(1), "192.168.0.1").await?;
            shell.run("head -c 100000 /dev/urandom > /config/noise").await?;
            carrot::poweroff(bed, shell).await
        })
        .await?;
    for (file, before) in files.iter().zip(before) {
        ensure!(
            checksum(file)? == before?,
            "expected {} as it was before, saw changes",
            file.display()
        );
    }
    Ok(())
}
