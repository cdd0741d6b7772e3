// SPDX-License-Identifier: GPL-3.0-or-later
use std::io::Write;
use std::process::{Output, Stdio};

use alpy_need::need;
use alpy_netns::{LinkChange, Reply, Request};

use crate::lab::{Lab, name};

fn once(lab: &Lab, input: &[u8]) -> Output {
    let mut helper = lab.enter();
    helper
        .arg(lab.helper())
        .arg("once")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut helper = helper.spawn().unwrap();
    helper.stdin.take().unwrap().write_all(input).unwrap();
    helper.wait_with_output().unwrap()
}

fn json(request: &Request) -> Vec<u8> {
    serde_json::to_vec(request).unwrap()
}

#[test]
fn a_request_on_standard_input_is_carried_out_and_answered() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let request = Request::new()
        .tap(name("short"))
        .persistent_tap(name("long"), 0)
        .link(LinkChange::of(name("long")).mtu_bytes(1400))
        .inspect(name("long"));
    let output = once(&lab, &json(&request));
    assert!(output.status.success(), "{output:?}");
    let reply: Reply = serde_json::from_slice(&output.stdout).unwrap();
    let Reply::Done { links } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!((links.len(), links[0].mtu_bytes), (1, 1400));
    // The loopback and the one that is to stay.
    let there = lab.ip("link");
    assert_eq!(there.as_array().unwrap().len(), 2, "{there:#}");
    assert_eq!(there[1]["ifname"], "long");
}

#[test]
fn a_request_that_cannot_be_carried_out_is_answered_too_and_fails() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let request = Request::new()
        .persistent_tap(name("eth0"), 0)
        .inspect(name("eth1"));
    let output = once(&lab, &json(&request));
    assert_eq!(output.status.code(), Some(1));
    let reply: Reply = serde_json::from_slice(&output.stdout).unwrap();
    let Reply::Failed(failure) = reply else {
        panic!("{reply:?}");
    };
    let words = "step 2 (inspect eth1): there is no link eth1";
    assert_eq!(failure.to_string(), words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(words), "{said}");
    assert_eq!(lab.ip("link").as_array().unwrap().len(), 1);

    let output = once(&lab, b"no JSON");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
}
