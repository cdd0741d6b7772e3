// SPDX-License-Identifier: GPL-3.0-or-later
use alpy::console::Guest;
use alpy::docker::Tar;
use alpy::qemu::Machine;
use alpy::{Failure, Link, TestResult, Testbed, step};

#[test]
fn forwards_ipv4() -> Result<(), Failure> {
    alpy_need::need!(docker, qemu => Ok(()));
    let images = std::env::var("ALPY_IMAGES").expect("ALPY_IMAGES is set") + "/current";
    let (kernel, initrd) = (format!("{images}/kernel"), format!("{images}/initrd"));
    Testbed::builder("forwards-ipv4")
        .machine(Machine::new().kernel(kernel).initrd(initrd).append("console=ttyS0 quiet").memory_mib(256))
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .link(Link::new().address("192.168.1.1/24").gateway("192.168.1.2"))
        .run_blocking(async |bed| -> TestResult {
            bed.start_cpu().await?;
            let mut router = bed.dut(0).log_in(&Guest::busybox()).await?;
            router.run("ip address add 192.168.0.2/24 dev eth0 && ip link set eth0 up").await?;
            router.run("ip address add 192.168.1.2/24 dev eth1 && ip link set eth1 up").await?;
            router.run("sysctl -w net.ipv4.ip_forward=1").await?;

            let busybox = "quick-start-busybox:1";
            bed.engine().import_image(busybox, Tar::file(format!("{images}/busybox.tar")), &["ENV PATH=/bin"]).await?;
            let ping = bed.node(0).application("ping", busybox)?.command(["ping", "-c", "3", "192.168.1.1"]);
            // A container has no capability that it is not given.
            let ping = ping.capability("NET_RAW");
            step!("Ping through the router", async { ping.run(bed.engine()).await?.success() }).await?;

            let crossed = bed.capture(1).count(|packet| packet.icmp().is_some_and(|icmp| icmp.echo.is_some()))?;
            assert_eq!(crossed, 6, "three requests and three replies are on the wire behind the router");
            Ok(())
        })
}
