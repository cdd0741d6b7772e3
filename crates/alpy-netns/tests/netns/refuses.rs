// SPDX-License-Identifier: GPL-3.0-or-later
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use alpy_need::need;
use alpy_netns::{Error, Failure, LinkChange, Namespace, Request, Route};
use serde_json::{Value, json};

use crate::lab::{DEADLINE, Kill, Lab, name};

#[tokio::test]
async fn what_cannot_be_done_is_refused_before_anything_is_touched() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    lab.run(&Request::new().persistent_tap(name("taken"), 0))
        .await
        .unwrap();
    let gone = {
        let neighbour = lab.neighbour();
        neighbour.pid()
    };
    let file = lab.helper();
    // The last step of each is the bad one; the first would be seen in the state.
    let tap = || Request::new().tap(name("eth0"));
    let to = |namespace| tap().link(LinkChange::of(name("eth0")).namespace(namespace).up());
    let bad = [
        (
            to(Namespace::Path("/run/netns/not-there".into())),
            "/run/netns/not-there",
        ),
        (to(Namespace::Path(file.clone())), file.to_str().unwrap()),
        (
            to(Namespace::Path("/proc/self/ns/mnt".into())),
            "/proc/self/ns/mnt",
        ),
        (to(Namespace::Pid(gone)), &gone.to_string()),
        (to(Namespace::Passed(3)), "number 3"),
        (tap().namespace(Namespace::Pid(gone)), &gone.to_string()),
        (tap().tap(name("taken")), "a link taken"),
        (tap().tap(name("eth0")), "a link eth0"),
        (
            tap().link(LinkChange::of(name("eth0")).name(name("taken"))),
            "a link taken",
        ),
        (tap().link(LinkChange::of(name("absent")).up()), "no link absent"),
        (
            tap().address(name("absent"), "192.0.2.1/24".parse().unwrap()),
            "no link absent",
        ),
        (
            tap().route(Route::to("192.0.2.0/24".parse().unwrap()).link(name("absent"))),
            "no link absent",
        ),
        (tap().inspect(name("absent")), "no link absent"),
        (tap().delete(name("absent")), "no link absent"),
        (tap().delete(name("taken")).delete(name("taken")), "no link taken"),
    ];
    let before = lab.state();
    let (mut session, _helper) = lab.session().await;
    for (request, value) in bad {
        match session.run(&request, DEADLINE).await {
            Err(Error::Failed(failure)) => {
                let message = failure.to_string();
                assert!(message.contains(value), "{value}: {message}");
                assert_eq!(failure.left, Vec::<String>::new());
            }
            other => panic!("{value}: {other:?}"),
        }
        assert_eq!(lab.state(), before, "{value}");
    }
}

#[tokio::test]
async fn what_a_link_that_has_left_is_asked_for_is_refused() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    let request = Request::new()
        .tap(name("eth0"))
        .link(LinkChange::of(name("eth0")).namespace(Namespace::Pid(neighbour.pid())))
        .address(name("eth0"), "192.0.2.1/24".parse().unwrap());
    let error = lab.run(&request).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "step 3 (add address 192.0.2.1/24 to eth0): there is no link eth0"
    );
    assert_eq!(neighbour.ip("link").as_array().unwrap().len(), 1);
}

/// A client that is not of this library, and does not look at what it sends.
#[tokio::test]
async fn the_helper_refuses_bad_values_that_come_over_the_wire() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let tap = json!({"create-tap": {"name": "eth0", "end": "with-descriptor"}});
    let long = json!({"create-tap": {"name": "sixteen-bytes-00", "end": "with-descriptor"}});
    let prefix = json!({"add-address": {"link": "eth0", "prefix": "192.0.2.1/33"}});
    let mac = json!({"change-link": {"link": "eth0", "name": null, "namespace": null, "mac": "01:00:5e:00:00:01",
        "mtu_bytes": null, "up": true, "without_ipv6_link_local": false}});
    let mtu = json!({"change-link": {"link": "eth0", "name": null, "namespace": null, "mac": null,
        "mtu_bytes": 67, "up": true, "without_ipv6_link_local": false}});
    for (operation, value) in [
        (long, "sixteen-bytes-00"),
        (prefix, "192.0.2.1/33"),
        (mac, "01:00:5e:00:00:01"),
        (mtu, "67 bytes"),
    ] {
        let request = json!({"namespace": null, "operations": [tap, operation]});
        let failure = raw_exchange(&lab, request.to_string().as_bytes());
        assert!(failure.reason.contains(value), "{failure}");
        assert_eq!(lab.ip("link").as_array().unwrap().len(), 1);
    }
    let failure = raw_exchange(&lab, b"no JSON");
    assert_eq!(failure.operation, "read the request");
}

/// Sends one message as it is; both sides speak a length of four bytes and then JSON.
fn raw_exchange(lab: &Lab, message: &[u8]) -> Failure {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let _helper = Kill(
        lab.enter()
            .arg(lab.helper())
            .arg("serve")
            .arg(&path)
            .spawn()
            .unwrap(),
    );
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(read_message(&mut stream), json!({"alpy_netns": 1}));
    stream.write_all(&(message.len() as u32).to_le_bytes()).unwrap();
    stream.write_all(message).unwrap();
    let mut reply = read_message(&mut stream);
    serde_json::from_value(reply["failed"].take()).unwrap()
}

fn read_message(stream: &mut UnixStream) -> Value {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    stream.read_exact(&mut body).unwrap();
    serde_json::from_slice(&body).unwrap()
}
