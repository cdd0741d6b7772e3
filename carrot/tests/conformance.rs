// SPDX-License-Identifier: GPL-3.0-or-later
//! A link is a wire: what is sent at one end arrives at the other, byte for byte, in order, none missing, none added; and the capture
//! shows just that. Looked at with frames that bridges and virtual cables of other kinds keep for themselves, change, or drop.
//!
//! The guest sends on to link 1 whatever comes on link 0, and the other way round, with `tc mirred`, which looks into nothing.
//!
//! With either kind of NIC: QEMU fills frames for an e1000 up to the least that Ethernet allows, see [`expected`].

use std::cell::Cell;
use std::time::Duration;

use alpy::pcap::{Capture, Packet};
use alpy::qemu::NicModel;
use alpy::{DirectLink, Link, Testbed};
use alpy_need::need;
use anyhow::{Context, Result, ensure};
use carrot::frames::{self, Listener};

/// How long the last frame may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A frame with what it is called.
type Named = (String, Vec<u8>);

const HERE: [u8; 6] = [0x02, 0, 0, 0, 0, 0xaa];
const THERE: [u8; 6] = [0x02, 0, 0, 0, 0, 0xbb];

/// The rabbit hands on everything, and says nothing itself.
const REFLECT: &str = "#!/bin/sh -e
sysctl -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
for pair in eth0:eth1 eth1:eth0; do
  from=${pair%:*} to=${pair#*:}
  ip link set $from mtu MTU promisc on arp off up
  # One queue, for all in turn: what it is without a word has three, and takes no lock.
  tc qdisc replace dev $from root pfifo
  tc qdisc add dev $from ingress
  tc filter add dev $from ingress matchall action mirred egress redirect dev $to
done
for nic in eth0 eth1; do
  if readlink /sys/class/net/$nic/device/driver | grep -q e1000; then
    # Else the driver takes a VLAN tag off, forgets its priority, and puts the rest back on.
    ethtool -K $nic rxvlan off
  fi
  until grep -q up /sys/class/net/$nic/operstate; do sleep 0.1; done
done
";

fn reflect(mtu: u32) -> String {
    REFLECT.replace("MTU", &mtu.to_string())
}

/// The least that Ethernet allows, without the checksum behind each frame: `ETH_ZLEN` of Linux and of QEMU.
const ETHERNET_LEAST: usize = 60;

/// What comes of a frame with a NIC of this kind. virtio-net leaves it as it is. Real Ethernet has no shorter frame than 60 bytes,
/// and QEMU 6.1 and later fill a shorter one that a tap has for an e1000 with zeroes (`net_peer_needs_padding` in its net/net.c, for
/// every model but virtio-net), which is before the capture; older ones do so in the NIC (`e1000_receive_iov` in hw/net/e1000.c),
/// which is behind it.
fn expected(model: NicModel, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if model == NicModel::E1000 {
        frame.resize(frame.len().max(ETHERNET_LEAST), 0);
    }
    frame
}

fn frame(destination: [u8; 6], ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&destination, &HERE, &ether_type.to_be_bytes()[..], payload].concat()
}

/// Bytes that no compression and no shift would leave as they are.
fn noise(length: usize) -> Vec<u8> {
    noise_of(0, length)
}

/// Other bytes for each number.
fn noise_of(number: u8, length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32 ^ length as u32 ^ u32::from(number) << 16;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn ipv4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    frames::ipv4([10, 0, 0, 1], [10, 0, 0, 2], protocol, options, fragment, payload)
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(payload);
    packet
}

fn udp(checksum: u16) -> Vec<u8> {
    let length = 8 + 11_u16;
    let head = [4000, 5000, length, checksum].map(u16::to_be_bytes).concat();
    [&head[..], b"hello, wire"].concat()
}

/// One of each kind that has to pass.
fn zoo() -> Vec<Named> {
    let mut zoo: Vec<Named> = Vec::new();
    let mut add = |name: &str, frame: Vec<u8>| zoo.push((name.to_owned(), frame));
    for last in 0..=0x0f {
        // What these are called: STP, PAUSE, LACP, 802.1X, ..., LLDP.
        let ether_type = match last {
            0x01 => 0x8808,
            0x02 => 0x8809,
            0x03 => 0x888e,
            0x0e => 0x88cc,
            _ => 38,
        };
        let reserved = [0x01, 0x80, 0xc2, 0, 0, last];
        add(
            &format!("01:80:c2:00:00:{last:02x}"),
            frame(reserved, ether_type, &noise_of(last, 46)),
        );
    }
    let packet = ipv4(17, &[], 0, &udp(0));
    let tagged = |control: u16, rest: Vec<u8>| [control.to_be_bytes().to_vec(), rest].concat();
    let inner = |ether_type: u16, payload: &[u8]| [&ether_type.to_be_bytes()[..], payload].concat();
    add(
        "802.1Q",
        frame(THERE, 0x8100, &tagged(3 << 13 | 100, inner(0x0800, &packet))),
    );
    add(
        "priority tag",
        frame(THERE, 0x8100, &tagged(7 << 13, inner(0x0800, &packet))),
    );
    add(
        "VLAN 4095",
        frame(THERE, 0x8100, &tagged(4095, inner(0x0800, &packet))),
    );
    let double = tagged(10, inner(0x8100, &tagged(20, inner(0x0800, &packet))));
    add("QinQ", frame(THERE, 0x88a8, &double));
    add("QinQ of 0x8100 twice", frame(THERE, 0x8100, &double));
    add(
        "MPLS",
        frame(THERE, 0x8847, &[&[0, 0x06, 0x41, 0xff][..], &packet].concat()),
    );
    add(
        "PPPoE discovery",
        frame([0xff; 6], 0x8863, &[0x11, 0x09, 0, 0, 0, 0]),
    );
    add(
        "PPPoE session",
        frame(
            THERE,
            0x8864,
            &[&[0x11, 0, 0, 1, 0, 4, 0xc0, 0x21][..], &noise(40)].concat(),
        ),
    );
    add(
        "MACsec",
        frame(THERE, 0x88e5, &[&[0x2c, 0, 0, 0, 0, 1][..], &noise(64)].concat()),
    );
    add(
        "ARP",
        frame(
            [0xff; 6],
            0x0806,
            &[&[0, 1, 8, 0, 6, 4, 0, 1][..], &noise(20), &[0; 18]].concat(),
        ),
    );
    add("IPv4, UDP without checksum", frame(THERE, 0x0800, &packet));
    add(
        "IPv4, UDP, wrong checksum",
        frame(THERE, 0x0800, &ipv4(17, &[], 0, &udp(0x1234))),
    );
    add(
        "IPv4, TCP, wrong checksum",
        frame(THERE, 0x0800, &ipv4(6, &[], 0, &noise(40))),
    );
    add(
        "IPv4 with options",
        frame(THERE, 0x0800, &ipv4(17, &[0x94, 4, 0, 0], 0, &udp(0))),
    );
    add(
        "IPv4, first fragment",
        frame(THERE, 0x0800, &ipv4(17, &[], 0x2000, &noise(64))),
    );
    add(
        "IPv4, last fragment",
        frame(THERE, 0x0800, &ipv4(17, &[], 8, &noise(64))),
    );
    let mut broken = packet.clone();
    broken[10] ^= 0xff;
    add("IPv4, wrong header checksum", frame(THERE, 0x0800, &broken));
    add("IPv6, UDP", frame(THERE, 0x86dd, &ipv6(17, &udp(0xbeef))));
    add(
        "IPv6 with hop-by-hop options",
        frame(
            THERE,
            0x86dd,
            &ipv6(0, &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp(1)].concat()),
        ),
    );
    add(
        "IPv6 fragment",
        frame(
            THERE,
            0x86dd,
            &ipv6(44, &[&[17, 0, 0, 1, 0, 0, 0, 7][..], &noise(64)].concat()),
        ),
    );
    add("broadcast", frame([0xff; 6], 0x0800, &packet));
    add("IPv4 multicast", frame([0x01, 0, 0x5e, 0, 0, 1], 0x0800, &packet));
    add(
        "IPv6 multicast",
        frame([0x33, 0x33, 0, 0, 0, 1], 0x86dd, &ipv6(58, &noise(32))),
    );
    add("unknown type", frame(THERE, 0xffff, &noise(100)));
    add("802.3 with a length", frame(THERE, 100, &noise(100)));
    for length in [14, 15, 20, 42, 59, 60, 61, 64, 128, 512, 1024, 1500, 1513, 1514] {
        add(
            &format!("{length} bytes"),
            frame(THERE, 0x88b5, &noise(length - 14)),
        );
    }
    zoo
}

/// The largest MTU that Linux's driver of the e1000 takes (`max_mtu` in drivers/net/ethernet/intel/e1000/e1000_main.c).
const E1000_MTU: u32 = 16110;

fn jumbo(mtu: u32) -> Vec<Named> {
    let largest = mtu as usize + 14;
    let lengths = [1514, 1515, 4096, 8999, largest - 1, largest];
    let jumbo = lengths.map(|length| {
        (
            format!("{length} bytes"),
            frame(THERE, 0x88b5, &noise(length - 14)),
        )
    });
    jumbo.to_vec()
}

/// Expects the same frames in the same order, and names the first that is not.
fn compare(place: &str, expected: &[Named], seen: &[Vec<u8>]) -> Result<()> {
    for (index, (name, frame)) in expected.iter().enumerate() {
        let at = seen.get(index);
        ensure!(
            at == Some(frame),
            "{place}: expected frame {index} ({name}), saw {}; expected\n  {frame:02x?}\nseen\n  {:02x?}",
            if at.is_some() { "another one" } else { "none" },
            at.unwrap_or(&Vec::new())
        );
    }
    ensure!(
        seen.len() == expected.len(),
        "{place}: expected {} frames, saw {} more, the first of them\n  {:02x?}",
        expected.len(),
        seen.len() - expected.len(),
        seen[expected.len()]
    );
    Ok(())
}

fn frames_of(capture: &Capture) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    capture.for_each(|packet| frames.push(packet.frame().bytes().to_vec()))?;
    Ok(frames)
}

/// Has the frames carried from one node to another one, both ways, through so many machines in a row.
async fn carry(test: &str, machines: usize, model: NicModel, mtu: u32, zoo: &[Named]) -> Result<()> {
    let carried = zoo
        .iter()
        .map(|(name, frame)| (name.clone(), expected(model, frame)));
    let carried: Vec<Named> = carried.collect();
    let (first, last) = (0, machines);
    let mut bed = Testbed::builder(test).link(Link::new().mtu_bytes(mtu));
    for machine in 0..machines {
        bed = bed.machine(rabbit::machine()?.nic_model(model));
        if machine > 0 {
            bed = bed.direct_link(DirectLink::between(machine - 1, machine));
        }
    }
    bed.link(Link::new().machine(machines - 1).mtu_bytes(mtu))
        .run(async |bed| {
            bed.start_cpu().await?;
            for dut in bed.duts() {
                let mut shell = carrot::login(dut).await?;
                carrot::configure(&mut shell, "reflect", &reflect(mtu)).await?;
            }
            let sent: Vec<Vec<u8>> = zoo.iter().map(|(_, frame)| frame.clone()).collect();
            for (from, to) in [(first, last), (last, first)] {
                let mark = |link: usize| bed.capture(link).since(&bed.capture(link).mark("before")?);
                let captures: Vec<_> = (first..=last).map(mark).collect::<Result<_, _>>()?;
                let listener = Listener::start(bed.node(to)).await?;
                frames::send(bed.node(from), &sent).await?;
                // One that does not come is named below.
                let seen = Cell::new(0);
                let all = |_: &Packet<'_>| {
                    seen.set(seen.get() + 1);
                    seen.get() == sent.len()
                };
                let _ = captures[to].expect(all, LIMIT).await;
                let received = listener.stop_after(sent.len()).await?;
                for (link, capture) in captures.iter().enumerate() {
                    compare(&format!("capture of link {link}"), &carried, &frames_of(capture)?)?;
                }
                compare(&format!("node {to}"), &carried, &received)?;
            }
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_link_of_virtio_net_is_a_wire() -> Result<()> {
    need!(docker, qemu => Ok(()));
    carry("conformance", 1, NicModel::VirtioNet, 1500, &zoo()).await
}

#[tokio::test]
async fn a_link_of_e1000_is_a_wire() -> Result<()> {
    need!(docker, qemu => Ok(()));
    carry("conformance-e1000", 1, NicModel::E1000, 1500, &zoo()).await
}

#[tokio::test]
async fn a_direct_link_between_two_machines_is_a_wire() -> Result<()> {
    need!(docker, qemu => Ok(()));
    let all = [zoo(), jumbo(9000)].concat();
    carry("conformance-direct", 2, NicModel::VirtioNet, 9000, &all).await
}

#[tokio::test]
async fn a_direct_link_of_e1000_is_a_wire() -> Result<()> {
    need!(docker, qemu => Ok(()));
    carry("conformance-direct-e1000", 2, NicModel::E1000, 1500, &zoo()).await
}

#[tokio::test]
async fn a_link_of_virtio_net_carries_jumbo_frames() -> Result<()> {
    need!(docker, qemu => Ok(()));
    carry("conformance-jumbo", 1, NicModel::VirtioNet, 9000, &jumbo(9000)).await
}

#[tokio::test]
async fn a_link_of_e1000_carries_jumbo_frames() -> Result<()> {
    need!(docker, qemu => Ok(()));
    carry(
        "conformance-jumbo-e1000",
        1,
        NicModel::E1000,
        E1000_MTU,
        &jumbo(E1000_MTU),
    )
    .await
}

#[tokio::test]
#[ignore = "takes frames from the capture that CONFORMANCE_FRAMES names, such as one that scapy has written"]
async fn a_link_carries_the_frames_of_a_file() -> Result<()> {
    need!(docker, qemu => Ok(()));
    let path = std::env::var("CONFORMANCE_FRAMES").context("CONFORMANCE_FRAMES is not set")?;
    let frames = frames_of(&Capture::open(path)?)?;
    let named = frames
        .into_iter()
        .map(|frame| (format!("{} bytes", frame.len()), frame));
    let named: Vec<_> = named.collect();
    carry("conformance-file", 1, NicModel::VirtioNet, 1500, &named).await?;
    carry("conformance-file-e1000", 1, NicModel::E1000, 1500, &named).await
}

/// What other systems have between two ends: a Linux bridge as it is made, and a pair of virtual cables joined to the NICs by
/// tc-mirred. The guest has one of them between its two NICs.
const OTHERS: [(&str, &str); 2] = [
    (
        "Linux bridge",
        "#!/bin/sh -e
sysctl -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip link add br0 type bridge forward_delay 0 mcast_snooping 0
for nic in eth0 eth1; do ip link set $nic promisc on master br0 up; done
ip link set br0 arp off up
",
    ),
    (
        "veth and tc-mirred",
        "#!/bin/sh -e
sysctl -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip link add v0 type veth peer name v1
for pair in eth0:v0 v0:eth0 eth1:v1 v1:eth1; do
  from=${pair%:*} to=${pair#*:}
  ip link set $from promisc on arp off up
  tc qdisc add dev $from ingress
  tc filter add dev $from ingress matchall action mirred egress redirect dev $to
done
",
    ),
];

/// What became of each frame on its way from link 0 to link 1.
async fn verdicts(model: NicModel, script: &str, zoo: &[Named]) -> Result<Vec<&'static str>> {
    let run = Testbed::builder("conformance-others")
        .machine(rabbit::machine()?.nic_model(model))
        .link(Link::new())
        .link(Link::new())
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "connect", script).await?;
            let sent: Vec<Vec<u8>> = zoo.iter().map(|(_, frame)| frame.clone()).collect();
            frames::send(bed.node(0), &sent).await?;
            let last = sent.last().cloned().unwrap_or_default();
            bed.capture(1)
                .expect(|packet| packet.frame().bytes() == last, LIMIT)
                .await?;
            frames_of(bed.capture(1))
        });
    let arrived = run.await?;
    // By the end of each frame, which no tag and no header at its beginning is in.
    let tail = |frame: &[u8]| frame[frame.len().saturating_sub(16)..].to_vec();
    let verdict = |frame: &Vec<u8>| {
        if arrived.contains(frame) {
            "as sent"
        } else if arrived.contains(&expected(model, frame)) {
            "filled up"
        } else if frame.len() >= 60 && arrived.iter().any(|other| tail(other) == tail(frame)) {
            "changed"
        } else {
            "lost"
        }
    };
    Ok(zoo.iter().map(|(_, frame)| verdict(frame)).collect())
}

/// The table in the guide.
#[tokio::test]
#[ignore = "prints the table of the guide"]
async fn beside_a_bridge_and_a_pair_of_virtual_cables() -> Result<()> {
    need!(docker, qemu => Ok(()));
    let zoo = zoo();
    let mut columns = Vec::new();
    for (name, model) in [
        ("alpy, virtio-net", NicModel::VirtioNet),
        ("alpy, e1000", NicModel::E1000),
    ] {
        columns.push((name, verdicts(model, &reflect(1500), &zoo).await?));
    }
    for (name, script) in OTHERS {
        columns.push((name, verdicts(NicModel::VirtioNet, script, &zoo).await?));
    }
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    println!(
        "| frame | {} |\n|---|{}",
        names.join(" | "),
        "---|".repeat(names.len())
    );
    for (index, (name, _)) in zoo.iter().enumerate() {
        let row: Vec<&str> = columns.iter().map(|(_, verdicts)| verdicts[index]).collect();
        if row.iter().any(|verdict| *verdict != "as sent") {
            println!("| {name} | {} |", row.join(" | "));
        }
    }
    for (name, verdicts) in columns {
        let good = verdicts.iter().filter(|verdict| **verdict == "as sent").count();
        println!("{name}: {good} of {} as sent", zoo.len());
    }
    Ok(())
}

/// Nobody sends, so nothing is on the wire: neither before the guest starts nor in a node without applications.
async fn stay_quiet(test: &str, model: NicModel) -> Result<()> {
    Testbed::builder(test)
        .machine(rabbit::machine()?.nic_model(model))
        .link(Link::new().address("192.168.0.1/24"))
        .link(Link::new())
        .run(async |bed| {
            for capture in [bed.capture(0), bed.capture(1)] {
                capture.expect_none(|_| true, Duration::from_millis(500)).await?;
            }
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            carrot::configure(&mut shell, "reflect", &reflect(1500)).await?;
            for capture in [bed.capture(0), bed.capture(1)] {
                capture.expect_none(|_| true, Duration::from_secs(2)).await?;
            }
            Ok::<_, anyhow::Error>(())
        })
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_wire_of_virtio_net_is_quiet() -> Result<()> {
    need!(docker, qemu => Ok(()));
    stay_quiet("conformance-quiet", NicModel::VirtioNet).await
}

#[tokio::test]
async fn a_wire_of_e1000_is_quiet() -> Result<()> {
    need!(docker, qemu => Ok(()));
    stay_quiet("conformance-quiet-e1000", NicModel::E1000).await
}
