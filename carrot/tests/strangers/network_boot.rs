// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine without a disk, which boots from the network: iPXE of its NIC asks dnsmasq for an address and a script, and busybox' httpd for
//! what the script names, the kernel and the initrd of Debian's installer.

use std::time::Duration;

use alpy::console::Guest;
use alpy::docker::Running;
use alpy::pcap::{Packet, filter};
use alpy::qemu::Machine;
use alpy::{Link, Node, Testbed, step};
use alpy_need::need;
use anyhow::{Context, Result, ensure};
use rabbit::images;

use crate::SOON;

const SERVER: [u8; 4] = [192, 168, 0, 1];

/// What the last request of the installer's own shell brings.
const PAGE: &str = "a page of the node\n";

/// The installer stops for a shell before udev has found the NIC, and for one when it has.
const DEBUG: &str = "BOOT_DEBUG=3";

/// The shell of the installer, which nobody has to log in to.
fn installer(stage: &str) -> Guest {
    Guest::busybox().autologin(format!("This is a debug shell ({stage})"))
}

#[tokio::test]
async fn an_installer_boots_from_the_network_and_fetches_a_page() -> Result<()> {
    need!(docker, qemu => Ok(()));
    let Some(image) = crate::machine("installer")? else {
        return Ok(());
    };
    // SeaBIOS and iPXE speak on the console where there is no screen.
    let machine = Machine::new().machine_type("pc,graphics=off").memory_mib(512);
    Testbed::builder("network-boot")
        .machine(machine.network_boot())
        // With IPv6, for iPXE goes on when a router has answered it, or else after 15 s.
        .link(
            Link::new()
                .address("192.168.0.1/24")
                .address("fd00::1/64")
                .ipv6_link_local(),
        )
        .run(async |bed| {
            let node = bed.node(0);
            let _servers = [
                serve_addresses(node, &image.cmdline).await?,
                serve_files(node, &image).await?,
            ];
            bed.start_cpu().await?;
            let console = bed.console();
            step!(
                "Wait for iPXE",
                console.expect("Next server: 192.168.0.1", Duration::from_secs(60))
            )
            .await?;
            let wire = bed.capture(0);
            for (what, found) in [
                ("DISCOVER", wire.find(|packet| dhcp(packet, 1))?),
                ("OFFER", wire.find(|packet| dhcp(packet, 2))?),
                ("REQUEST", wire.find(|packet| dhcp(packet, 3))?),
                ("ACK", wire.find(|packet| dhcp(packet, 5))?),
            ] {
                found.with_context(|| format!("no DHCP {what} is on the wire"))?;
            }
            wire.expect(|packet| tftp_request(packet) == Some(b"boot.ipxe"), SOON)
                .await?;
            wire.expect(|packet| get(packet, "/kernel"), SOON).await?;
            wire.expect(|packet| get(packet, "/initrd"), SOON).await?;

            let first = installer("just booted");
            let shell = step!("Wait for the installer to boot", first.log_in(console)).await?;
            shell.console().send_line("exit").await?;
            let second = installer("before init");
            let mut shell = step!("Wait for its drivers", second.log_in(console)).await?;
            let booted = wire.mark("the installer has booted")?;
            let release = shell.run("cat /etc/lsb-release").await?;
            ensure!(release.text().contains("DISTRIB_ID=Debian"), "{}", release.text());
            shell
                .run("udhcpc -n -q -i $(cd /sys/class/net && echo en*)")
                .await?;
            let page = shell.run("wget -q -O - http://192.168.0.1/page").await?;
            ensure!(
                page.text() == PAGE,
                "expected the node's page, saw {}",
                page.text()
            );
            // It has asked for an address of its own, and has not iPXE's.
            let after = wire.since(&booted)?;
            after.expect(|packet| dhcp(packet, 5), SOON).await?;
            after.expect(|packet| get(packet, "/page"), SOON).await?;
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}

/// DHCP, and the script by TFTP. A kernel's command line is what the recipe says, and the debugging shells.
async fn serve_addresses(node: &Node, cmdline: &str) -> Result<Running> {
    let script = format!(
        "#!ipxe\nkernel http://192.168.0.1/kernel {cmdline} {DEBUG}\ninitrd http://192.168.0.1/initrd\nboot\n"
    );
    let image = rabbit::image(node.engine(), "dnsmasq").await?;
    let server = node
        .application("dnsmasq", &image)?
        .file("/etc/passwd", "root:x:0:0::/:\n", 0o644)
        .file("/tftp/boot.ipxe", script, 0o644)
        .command([
            "dnsmasq",
            "--keep-in-foreground",
            "--log-facility=-",
            "--log-dhcp",
            "--user=root",
            "--conf-file=/dev/null",
            "--pid-file",
            "--port=0",
            "--interface=eth0",
            "--leasefile-ro",
            "--dhcp-range=192.168.0.100,192.168.0.120",
            // Else it pings an address for 3 s before it offers it.
            "--no-ping",
            "--enable-ra",
            "--dhcp-range=fd00::,ra-only",
            "--dhcp-boot=boot.ipxe",
            "--enable-tftp",
            "--tftp-root=/tftp",
        ])
        // An entry in the ARP table for who has no address yet, and router advertisements.
        .capability("NET_ADMIN")
        .capability("NET_BIND_SERVICE")
        .capability("NET_RAW");
    let start = async {
        let server = server.start(node.engine()).await?;
        server.wait_output("TFTP root is /tftp", SOON).await?;
        anyhow::Ok(server)
    };
    step!("Start DHCP and TFTP server", start).await
}

/// Kernel, initrd and a page by HTTP.
async fn serve_files(node: &Node, machine: &images::Machine) -> Result<Running> {
    let image = rabbit::image(node.engine(), "http").await?;
    let server = node
        .application("http-server", &image)?
        .bind_read_only(&machine.kernel, "/www/kernel")
        .bind_read_only(&machine.initrd, "/www/initrd")
        .file("/www/page", PAGE, 0o644)
        .command(["httpd", "-f", "-vv", "-p", "80", "-h", "/www"])
        .capability("NET_BIND_SERVICE");
    Ok(step!("Start HTTP server", server.start(node.engine())).await?)
}

/// Whether this is a DHCP message of this type: RFC 2131, section 2, and RFC 2132, section 9.6, whose option comes first.
fn dhcp(packet: &Packet<'_>, kind: u8) -> bool {
    const MAGIC: usize = 236;
    let message = packet
        .udp()
        .filter(|udp| [67, 68].contains(&udp.destination_port));
    message.is_some_and(|udp| udp.payload.get(MAGIC..MAGIC + 7) == Some(&[99, 130, 83, 99, 53, 1, kind]))
}

/// The file that a TFTP request wants to read: RFC 1350, section 5.
fn tftp_request<'a>(packet: &'a Packet<'_>) -> Option<&'a [u8]> {
    let udp = packet.udp().filter(|udp| udp.destination_port == 69)?;
    udp.payload
        .strip_prefix(b"\0\x01")?
        .split(|byte| *byte == 0)
        .next()
}

/// Whether this asks the server for a page.
fn get(packet: &Packet<'_>, page: &str) -> bool {
    let start = format!("GET {page} ");
    packet.tcp().is_some_and(|tcp| {
        filter::ip_to(SERVER)(packet)
            && tcp.destination_port == 80
            && tcp.payload.starts_with(start.as_bytes())
    })
}
