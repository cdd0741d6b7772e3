// SPDX-License-Identifier: GPL-3.0-or-later
//! Rabbit boots from its disk by BIOS, and what it writes there leaves the disk's image as it was.

use alpy::qemu::checksum;
use alpy::{Link, Testbed};
use anyhow::{Result, ensure};
use carrot::{disk, ping};

#[tokio::test]
async fn disk_boot() -> Result<()> {
    let image = rabbit::disk_image()?;
    let before = checksum(&image)?;
    Testbed::builder("disk-boot")
        .description("Check that rabbit boots from its disk.")
        .machine(rabbit::disk_machine()?.without_saved_state())
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "configure-rabbit", include_str!("configure-rabbit")).await?;

            // The boot loader names the kernel to it. QEMU, which could have loaded it too, does not.
            let kernel = shell.run("cat /proc/cmdline").await?;
            let kernel = kernel.text();
            ensure!(
                kernel.contains("BOOT_IMAGE=/vmlinuz"),
                "expected a kernel from the disk's boot loader, saw {kernel:?}"
            );
            let uefi = shell
                .command("test -e /sys/firmware/efi")
                .ignore_status()
                .run()
                .await?;
            ensure!(
                uefi.code != 0,
                "expected a system that BIOS has booted, saw /sys/firmware/efi"
            );

            ping::answers(bed.node(0), "192.168.1.1").await?;
            ping::answers(bed.node(1), "192.168.0.1").await?;

            let written = disk::written(bed, 0).await?;
            shell.run("head -c 100000 /dev/urandom > /config/noise").await?;
            let written = disk::written(bed, 0).await? - written;
            ensure!(
                written >= 100_000,
                "expected the guest to write to its disk, saw {written} bytes"
            );
            carrot::poweroff(bed, shell).await
        })
        .await?;
    let after = checksum(&image)?;
    ensure!(
        before == after,
        "expected {} as it was before, saw changes",
        image.display()
    );
    Ok(())
}
