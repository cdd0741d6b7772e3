// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine without a disk, which boots from the network: iPXE of its NIC asks dnsmasq for an address and a script, and busybox' httpd for
//! what the script names, the kernel and the initrd of Debian's installer. How far the installer goes by itself takes longer than what is
//! run each time: `cargo test -p carrot --test strangers -- --ignored`, with the engine and the images of `cargo xtask with-engine`.

use std::time::Duration;

use alpy::console::Guest;
use alpy::docker::Running;
use alpy::pcap::{Packet, filter};
use alpy::qemu::Machine;
use alpy::{Link, Node, Testbed, TestbedBuilder, step};
use alpy_need::need;
use anyhow::{Context, Result, ensure};
use rabbit::images;

use crate::SOON;

const SERVER: [u8; 4] = [192, 168, 0, 1];

/// What the last request of the installer's own shell brings.
const PAGE: &str = "a page of the node\n";

/// What the installer asks nobody about. The command comes first, and its request is the proof that the file was obeyed.
const PRESEED: &str = "d-i preseed/early_command string wget -q -O /dev/null http://192.168.0.1/obeyed\n";

/// How long the installer may take until it has found its NIC and looked for other networks.
const INSTALLER: Duration = Duration::from_secs(240);

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
    testbed("network-boot", 512)
        .run(async |bed| {
            // It stops for a shell before udev has found the NIC, and for one when it has.
            let _servers = boot(bed, &image, "BOOT_DEBUG=3", &[("page", PAGE)]).await?;
            let (wire, console) = (bed.capture(0), bed.console());
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

#[tokio::test]
#[ignore = "the installer takes 40 s until it has a network"]
async fn an_installer_obeys_a_file_of_answers_that_it_fetches_itself() -> Result<()> {
    need!(docker, qemu => Ok(()));
    let Some(image) = crate::machine("installer")? else {
        return Ok(());
    };
    // With less memory, it asks whether it may do without some of its parts.
    testbed("preseed", 1024)
        .deadline(2 * INSTALLER)
        .run(async |bed| {
            let options = "ipv6.disable=1 auto=true priority=critical DEBIAN_FRONTEND=text hostname=stranger domain=example \
                           url=http://192.168.0.1/preseed.cfg";
            let pages = [("preseed.cfg", PRESEED), ("obeyed", "")];
            let _servers = boot(bed, &image, options, &pages).await?;
            let fetched = bed.capture(0).expect(|packet| get(packet, "/preseed.cfg"), INSTALLER);
            let request = step!("Wait for its request for answers", fetched).await?;
            let request = String::from_utf8_lossy(request.payload()).into_owned();
            ensure!(request.contains("User-Agent: debian-installer"), "{request}");
            bed.capture(0).expect(|packet| get(packet, "/obeyed"), SOON).await?;
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}

fn testbed(test: &str, memory_mib: u32) -> TestbedBuilder {
    // SeaBIOS and iPXE speak on the console where there is no screen.
    let machine = Machine::new().machine_type("pc,graphics=off").network_boot();
    // With IPv6, for iPXE goes on when a router has answered it, or else after 15 s.
    let link = Link::new()
        .address("192.168.0.1/24")
        .address("fd00::1/64")
        .ipv6_link_local();
    Testbed::builder(test)
        .machine(machine.memory_mib(memory_mib))
        .link(link)
}

/// Boots the image over the wire, and returns when its initrd is on the way. The servers go on while they are held.
async fn boot(
    bed: &Testbed,
    image: &images::Machine,
    options: &str,
    pages: &[(&str, &str)],
) -> Result<[Running; 2]> {
    let node = bed.node(0);
    let servers = [
        serve_addresses(node, &format!("{} {options}", image.cmdline)).await?,
        serve_files(node, image, pages).await?,
    ];
    bed.start_cpu().await?;
    let next_server = bed
        .console()
        .expect("Next server: 192.168.0.1", Duration::from_secs(60));
    step!("Wait for iPXE", next_server).await?;
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
    Ok(servers)
}

/// DHCP, and the script by TFTP.
async fn serve_addresses(node: &Node, cmdline: &str) -> Result<Running> {
    let script = format!(
        "#!ipxe\nkernel http://192.168.0.1/kernel {cmdline}\ninitrd http://192.168.0.1/initrd\nboot\n"
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
            // Without one, the installer asks for it. It answers nobody.
            "--dhcp-option=option:dns-server,192.168.0.1",
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

/// Kernel, initrd and pages by HTTP.
async fn serve_files(node: &Node, machine: &images::Machine, pages: &[(&str, &str)]) -> Result<Running> {
    let image = rabbit::image(node.engine(), "http").await?;
    let mut server = node
        .application("http-server", &image)?
        .bind_read_only(&machine.kernel, "/www/kernel")
        .bind_read_only(&machine.initrd, "/www/initrd")
        .command(["httpd", "-f", "-vv", "-p", "80", "-h", "/www"])
        .capability("NET_BIND_SERVICE");
    for (page, content) in pages {
        server = server.file(format!("/www/{page}"), *content, 0o644);
    }
    let start = async {
        let server = server.start(node.engine()).await?;
        carrot::http::listens(node, &server).await?;
        anyhow::Ok(server)
    };
    step!("Start HTTP server", start).await
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
