// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use alpy_need::need;
use alpy_netns::{LinkChange, Request};
use serde_json::json;
use tokio::time::timeout;

use crate::lab::{DEADLINE, Lab, find, name};

/// A broadcast of an EtherType that nobody has (IEEE 802's for experiments): the kernel counts it and drops it.
fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &[0x52, 0x54, 0, 0, 0, 1], &[0x88, 0xb5]].concat();
    frame.resize(bytes, 0xa5);
    frame
}

#[tokio::test]
async fn a_tap_by_descriptor_counts_the_frames_written_to_it() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let (mut session, _helper) = lab.session().await;
    let eth0 = name("eth0");
    let request = Request::new()
        .tap(eth0.clone())
        .link(LinkChange::of(eth0.clone()).without_ipv6_link_local().up())
        .inspect(eth0.clone());
    let mut answer = session.run(&request, DEADLINE).await.unwrap();
    assert!(
        answer.links[0].up && answer.links[0].carrier,
        "{:?}",
        answer.links
    );
    assert_eq!(answer.links[0].counters.rx_packets, 0);

    let details = lab.ip("-d link show eth0");
    let tap = &details[0]["linkinfo"];
    assert_eq!(tap["info_kind"], "tun");
    assert_eq!(tap["info_data"]["type"], "tap");
    for off in ["pi", "vnet_hdr", "persist", "multi_queue"] {
        assert_eq!(tap["info_data"][off], json!(false), "{off} of {tap}");
    }

    let mut device: File = answer.taps.remove(0).into();
    for bytes in [14, 60, 1514] {
        device.write_all(&frame(bytes)).unwrap();
    }
    let answer = session
        .run(&Request::new().inspect(eth0), DEADLINE)
        .await
        .unwrap();
    let counters = answer.links[0].counters;
    // Written bare, with nothing before them: so many frames, so many bytes.
    assert_eq!((counters.rx_packets, counters.rx_bytes), (3, 14 + 60 + 1514));
    let seen = &lab.ip("-s link show eth0")[0]["stats64"];
    assert_eq!(seen["rx"]["packets"], counters.rx_packets);
    assert_eq!(seen["rx"]["bytes"], counters.rx_bytes);
    assert_eq!(seen["rx"]["dropped"], counters.rx_dropped);
    assert_eq!(seen["tx"]["packets"], counters.tx_packets);
    assert_eq!(seen["tx"]["bytes"], counters.tx_bytes);
}

#[tokio::test]
async fn a_frame_that_the_namespace_sends_is_read_whole_from_the_descriptor() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let eth0 = name("eth0");
    let request = Request::new()
        .tap(eth0.clone())
        .link(
            LinkChange::of(eth0.clone())
                .without_ipv6_link_local()
                .mac("52:54:00:00:00:07".parse().unwrap())
                .up(),
        )
        .address(eth0, "192.0.2.1/24".parse().unwrap());
    let mut answer = lab.run(&request).await.unwrap();
    // A datagram to a neighbour that is not there: first of all, ARP asks for it.
    let datagram = "echo > /dev/udp/192.0.2.2/9";
    assert!(
        lab.enter()
            .args(["bash", "-c", datagram])
            .status()
            .unwrap()
            .success()
    );
    let mut device: File = answer.taps.remove(0).into();
    let mut received = [0; 2048];
    let length = device.read(&mut received).unwrap();
    assert_eq!(
        received[..14],
        [&[0xff; 6][..], &[0x52, 0x54, 0, 0, 0, 7], &[8, 6]].concat()
    );
    assert_eq!(length, 14 + 28);
}

#[tokio::test]
async fn a_tap_by_descriptor_ends_with_its_last_descriptor_and_not_with_the_helper() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let (mut session, mut helper) = lab.session().await;
    let tap = format!("t{}", std::process::id());
    let answer = session
        .run(&Request::new().tap(name(&tap)), DEADLINE)
        .await
        .unwrap();
    drop(session);
    assert!(helper.0.wait().unwrap().success());
    find(&lab.ip("link"), "ifname", &tap);
    let here = fs::read_to_string("/proc/net/dev").unwrap();
    assert!(!here.contains(&tap), "the test's own namespace has it: {here}");
    drop(answer.taps);
    // A process that another test is just starting has all descriptors of this one till it runs its program.
    let gone = async {
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        while lab.ip("link").as_array().unwrap().len() > 1 {
            tick.tick().await;
        }
    };
    timeout(DEADLINE, gone).await.expect("only the loopback is left");
}

#[tokio::test]
async fn many_taps_come_in_the_order_asked_for() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let names: Vec<_> = (0..Request::MAX_TAPS)
        .map(|number| name(&format!("tap{number}")))
        .collect();
    let mut request = names.iter().cloned().fold(Request::new(), Request::tap);
    request = names
        .iter()
        .cloned()
        .fold(request, |request, tap| request.link(LinkChange::of(tap).up()));
    let (mut session, _helper) = lab.session().await;
    let mut taps = session.run(&request, DEADLINE).await.unwrap().taps;
    assert_eq!(taps.len(), Request::MAX_TAPS);
    let last: OwnedFd = taps.pop().unwrap();
    File::from(last).write_all(&frame(60)).unwrap();
    let request = names.iter().cloned().fold(Request::new(), Request::inspect);
    let (gone, rest): (Vec<_>, Vec<_>) = names.iter().partition(|tap| *tap == names.last().unwrap());
    let error = session.run(&request, DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains(gone[0].as_str()), "{error}");
    let request = rest.into_iter().cloned().fold(Request::new(), Request::inspect);
    assert_eq!(
        session.run(&request, DEADLINE).await.unwrap().links.len(),
        Request::MAX_TAPS - 1
    );
}

#[tokio::test]
async fn a_tap_by_name_stays_for_its_owner_until_it_is_deleted() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    // In the lab's user namespace there is no other user than 0.
    let answer = lab
        .run(&Request::new().persistent_tap(name("tap7"), 0))
        .await
        .unwrap();
    assert!(answer.taps.is_empty());
    let details = lab.ip("-d link show tap7");
    let data = &details[0]["linkinfo"]["info_data"];
    assert_eq!(
        (&data["persist"], &data["user"]),
        (&json!(true), &json!("root")),
        "{data}"
    );
    lab.run(&Request::new().delete(name("tap7"))).await.unwrap();
    assert_eq!(lab.ip("link").as_array().unwrap().len(), 1);
}
