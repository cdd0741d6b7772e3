// SPDX-License-Identifier: GPL-3.0-or-later
//! Several machines in a testbed, cables between them, and links that come and go while they run.

use std::time::Duration;

use alpy::console::RemoteShell;
use alpy::pcap::filter;
use alpy::{CableEnd, DirectLink, Dut, Link, Testbed, TestbedBuilder};
use alpy_need::need;
use anyhow::{Context, Result, bail, ensure};
use carrot::ping;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A guest is asked at most so often whether it sees a change, with at least this time between two questions.
const LOOKS: u32 = 200;
const LOOK: Duration = Duration::from_millis(50);

/// The link between the two machines, and those of their nodes.
const NODES: [usize; 2] = [0, 2];
const DIRECT: usize = 1;

/// node 0 - machine 0 - machine 1 - node 2
fn chain(test: &str) -> Result<TestbedBuilder> {
    Ok(Testbed::builder(test)
        .machine(rabbit::machine()?)
        .machine(rabbit::machine()?)
        .link(Link::new().address("192.168.0.1/24").gateway("192.168.0.2"))
        .direct_link(DirectLink::between(0, 1))
        .link(
            Link::new()
                .machine(1)
                .address("192.168.1.1/24")
                .gateway("192.168.1.2"),
        ))
}

/// Has each of the two forward between its NICs, of which the one to the other machine comes second in the first, and first in the second.
async fn routers(bed: &Testbed) -> Result<[RemoteShell; 2]> {
    bed.start_cpu().await?;
    let (first, second) = tokio::try_join!(router(bed.dut(0)), router(bed.dut(1)))?;
    Ok([first, second])
}

async fn router(dut: &Dut) -> Result<RemoteShell> {
    let mut shell = carrot::login(dut).await?;
    let (own, other) = (dut.index(), 1 - dut.index());
    let (node, direct) = if own == 0 {
        ("eth0", "eth1")
    } else {
        ("eth1", "eth0")
    };
    let script = format!(
        "#!/bin/sh -e\nip address add 192.168.{own}.2/24 dev {node}\nip address add 10.0.0.{own}/24 dev {direct}\n\
         ip link set {node} up\nip link set {direct} up\nip route add 192.168.{other}.0/24 via 10.0.0.{other}\n\
         sysctl -w net.ipv4.ip_forward=1\n",
    );
    carrot::configure(&mut shell, "configure-router", &script).await?;
    Ok(shell)
}

fn signal(dut: &Dut, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(dut.qemu().pid().try_into()?), signal)?)
}

/// Runs the command in the guest until it prints this. The limit is a number of answers, so a starved guest has more time.
async fn expect_in_guest(shell: &mut RemoteShell, command: &str, wanted: &str) -> Result<()> {
    let mut looks = tokio::time::interval(LOOK);
    let mut seen = String::new();
    for _ in 0..LOOKS {
        looks.tick().await;
        seen = shell.run(command).await?.text().trim().to_owned();
        if seen == wanted {
            return Ok(());
        }
    }
    bail!(
        "expected {wanted:?} of {command:?} in the guest within {:?}, saw {seen:?}",
        LOOKS * LOOK
    )
}

/// The CPU model is `max`, the default.
#[tokio::test]
async fn a_machine_with_two_cpus_boots_and_is_restored() -> Result<()> {
    need!(qemu => Ok(()));
    let machine = rabbit::machine()?.cpus(2);
    for machine in [machine.clone().without_saved_state(), machine] {
        Testbed::builder("two-cpus")
            .machine(machine)
            .run(async |bed| {
                bed.start_cpu().await?;
                let mut shell = carrot::login(bed).await?;
                expect_in_guest(&mut shell, "grep -c ^processor /proc/cpuinfo", "2").await?;
                carrot::poweroff(bed, shell).await
            })
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_direct_link_is_a_wire_with_a_capture_and_a_cable() -> Result<()> {
    need!(docker, qemu => Ok(()));
    chain("direct-link")?
        .run(async |bed| {
            let mut shells = routers(bed).await?;
            ping::answers(bed.node(NODES[0]), "192.168.1.1").await?;
            let direct = bed.capture(DIRECT);
            for (both, address) in [("there", [192, 168, 1, 1]), ("back", [192, 168, 0, 1])] {
                direct
                    .expect(filter::ip_to(address), Duration::ZERO)
                    .await
                    .with_context(|| format!("on the way {both}"))?;
            }
            let cable = bed.cable(DIRECT);
            let carriers = async |shells: &mut [RemoteShell], first: &str, second: &str| -> Result<()> {
                expect_in_guest(&mut shells[0], "cat /sys/class/net/eth1/carrier", first).await?;
                expect_in_guest(&mut shells[1], "cat /sys/class/net/eth0/carrier", second).await
            };
            cable.unplug().await?;
            carriers(&mut shells, "0", "0").await?;
            ping::is_lost(bed.node(NODES[0]), "192.168.1.1").await?;
            cable.plug_end(CableEnd::Machine).await?;
            carriers(&mut shells, "1", "0").await?;
            cable.plug_end(CableEnd::OtherMachine).await?;
            carriers(&mut shells, "1", "1").await?;
            ping::answers(bed.node(NODES[0]), "192.168.1.1").await?;
            let none = cable.unplug_end(CableEnd::Node).await.unwrap_err().to_string();
            ensure!(none == "link 1 has no end Node", "{none}");
            let cut = direct.mark("cut")?;
            cable.blackhole().await?;
            ping::is_lost(bed.node(NODES[0]), "192.168.1.1").await?;
            ping::is_lost(bed.node(NODES[1]), "192.168.0.1").await?;
            // The capture is in front of the cut, seen from the first machine.
            let after = direct.since(&cut)?;
            after
                .expect(filter::icmp_echo_to([192, 168, 1, 1]), Duration::ZERO)
                .await?;
            after
                .expect_none(filter::icmp_echo_to([192, 168, 0, 1]), Duration::ZERO)
                .await?;
            carriers(&mut shells, "1", "1").await?;
            cable.plug().await?;
            ping::answers(bed.node(NODES[1]), "192.168.0.1").await
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_machine_without_power_has_no_carrier_for_others() -> Result<()> {
    need!(docker, qemu => Ok(()));
    chain("power-cut")?
        .run(async |bed| {
            let mut shells = routers(bed).await?;
            ping::answers(bed.node(NODES[0]), "192.168.1.1").await?;
            bed.cut_power(1).await?;
            ensure!(
                !bed.node(NODES[1]).link_state()?.carrier,
                "the node has lost its carrier"
            );
            ensure!(
                bed.node(NODES[0]).link_state()?.carrier,
                "the other node has its carrier"
            );
            expect_in_guest(&mut shells[0], "cat /sys/class/net/eth1/carrier", "0").await?;
            ping::is_lost(bed.node(NODES[0]), "192.168.1.1").await?;
            ping::answers(bed.node(NODES[0]), "192.168.0.2").await?;
            // The other one too, one of whose neighbours has no power already, and which hangs.
            signal(bed.dut(0), Signal::SIGSTOP)?;
            bed.cut_power(0).await?;
            ensure!(
                !bed.node(NODES[0]).link_state()?.carrier,
                "the other node has lost its carrier"
            );
            let off = bed.hot_plug(Link::new()).await.unwrap_err().to_string();
            ensure!(off.starts_with("machine 0 has ended"), "{off}");
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_link_comes_and_goes_while_the_machine_runs() -> Result<()> {
    need!(docker, qemu => Ok(()));
    chain("hot-plug")?
        .run(async |bed| {
            let mut shells = routers(bed).await?;
            let link = Link::new()
                .machine(1)
                .address("192.168.2.1/24")
                .gateway("192.168.2.2");
            let new = bed.hot_plug(link).await?;
            ensure!(new == 3, "expected the new link to be number 3, not {new}");
            let guest = &mut shells[1];
            expect_in_guest(guest, "ls /sys/class/net | grep eth2 || true", "eth2").await?;
            guest
                .run("ip address add 192.168.2.2/24 dev eth2 && ip link set eth2 up")
                .await?;
            ping::answers(bed.node(new), "192.168.1.1").await?;
            ping::answers(bed.node(NODES[1]), "192.168.2.1").await?;
            bed.capture(new)
                .expect(filter::icmp_reply_from([192, 168, 1, 1]), Duration::ZERO)
                .await?;
            bed.cable(new).unplug().await?;
            expect_in_guest(guest, "cat /sys/class/net/eth2/carrier", "0").await?;
            bed.cable(new).plug().await?;
            bed.hot_unplug(new).await?;
            expect_in_guest(guest, "ls /sys/class/net | grep -c eth2 || true", "0").await?;
            ensure!(
                !bed.node(new).link_state()?.carrier,
                "the node has lost its carrier"
            );
            ping::answers(bed.node(NODES[0]), "192.168.1.1").await?;
            let gone = bed.cable(new).plug().await.unwrap_err().to_string();
            ensure!(
                gone == "link 3 has no NIC any more at machine 1: it was pulled out",
                "{gone}"
            );
            // There is room for another one, and that one is pulled first.
            let next = bed
                .hot_plug(Link::new().address("192.168.3.1/24").boot_unplugged())
                .await?;
            expect_in_guest(&mut shells[0], "ls /sys/class/net | grep eth2 || true", "eth2").await?;
            shells[0].run("ip link set eth2 up").await?;
            expect_in_guest(&mut shells[0], "cat /sys/class/net/eth2/carrier", "0").await?;
            ensure!(
                !bed.node(next).link_state()?.carrier,
                "it is pulled at the node's end too"
            );
            let absent = bed
                .hot_plug(Link::new().machine(2))
                .await
                .unwrap_err()
                .to_string();
            ensure!(
                absent.starts_with("link 5 is of machine 2, and the testbed has 2"),
                "{absent}"
            );
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn the_end_of_one_machine_of_several_says_which() -> Result<()> {
    need!(docker, qemu => Ok(()));
    let failure = chain("machine-gone")?
        .run(async |bed| -> Result<()> {
            signal(bed.dut(1), Signal::SIGKILL)?;
            std::future::pending().await
        })
        .await
        .unwrap_err()
        .to_string();
    ensure!(
        failure.contains("machine 1 is gone: QEMU ended with signal: 9 (SIGKILL)"),
        "{failure}"
    );
    Ok(())
}

#[tokio::test]
async fn what_a_link_asks_for_must_be_there() {
    let failure = Testbed::builder("absent-machine")
        .direct_link(DirectLink::between(0, 1))
        .run(async |_| -> Result<()> { Ok(()) })
        .await
        .unwrap_err()
        .to_string();
    assert!(
        failure.contains("link 0 is of machine 1, and the testbed has 1"),
        "{failure}"
    );
    let failure = Testbed::builder("bad-mac")
        .direct_link(DirectLink::between(0, 0).macs("52:54:00:00:00:01", "52:54"))
        .run(async |_| -> Result<()> { Ok(()) })
        .await
        .unwrap_err()
        .to_string();
    assert!(
        failure.contains("link 0") && failure.contains("52:54"),
        "{failure}"
    );
}
