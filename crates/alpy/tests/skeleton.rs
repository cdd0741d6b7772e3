// SPDX-License-Identifier: GPL-3.0-or-later
//! Skeletons on a real engine: nodes and taps, looked at from inside the nodes and from outside.

mod support;

use std::fs::File;
use std::io::{Read, Write};

use alpy::docker::Engine;
use alpy::{Error, Link, NamedTaps, Skeleton};
use alpy_need::need;
use serde_json::{Value, json};
use support::{busybox, containers_of, eventually, seen};

#[tokio::test]
async fn each_node_has_its_tap_with_the_settings_of_the_link() {
    need!(docker);
    let link0 = Link::new()
        .address("192.0.2.1/24")
        .address("2001:db8::1/64")
        .node_mac("02:00:00:00:00:07");
    let link1 = Link::new()
        .address("198.51.100.1/24")
        .gateway("198.51.100.2")
        .mtu_bytes(9000);
    let (skeleton, taps) = Skeleton::builder("settings")
        .link(link0)
        .link(link1)
        .start()
        .await
        .unwrap();
    assert_eq!(taps.len(), 2);

    let eth0 = skeleton.nodes()[0].interface().await.unwrap();
    assert_eq!(eth0.name.as_str(), "eth0");
    assert_eq!(eth0.mac, "02:00:00:00:00:07");
    let addresses: Vec<_> = eth0.addresses.iter().map(ToString::to_string).collect();
    // Nothing but what was asked for: no link-local address, so that the wire is quiet.
    assert_eq!(addresses, ["192.0.2.1/24", "2001:db8::1/64"]);
    let eth1 = skeleton.nodes()[1].interface().await.unwrap();
    assert_eq!((eth1.mtu_bytes, eth1.up), (9000, true));

    let (engine, run) = (skeleton.engine().clone(), skeleton.run_id().to_owned());
    assert_eq!(containers_of(&engine, &run).await.len(), 2);
    skeleton.close().await.unwrap();
    assert_eq!(containers_of(&engine, &run).await, [""; 0]);
}

#[tokio::test]
async fn a_frame_written_to_the_tap_arrives_in_the_node_and_the_answer_comes_back() {
    need!(docker);
    let link = Link::new().address("192.0.2.1/24").node_mac("02:00:00:00:00:01");
    let (skeleton, taps) = Skeleton::builder("frames").link(link).start().await.unwrap();
    let mut tap = File::from(taps.into_iter().next().unwrap());
    // Who has 192.0.2.1? Tell 192.0.2.2 at 02:00:00:00:00:02. (RFC 826)
    let mut request = vec![0xff; 6];
    request.extend([2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend([2, 0, 0, 0, 0, 2, 192, 0, 2, 2, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]);
    tap.write_all(&request).unwrap();
    let mut answer = [0; 2000];
    let length = tap.read(&mut answer).unwrap();
    // To us, from the node, an ARP reply, and not a byte more than that: no header of the tap's own.
    assert_eq!(answer[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 6]);
    assert_eq!((length, &answer[20..22]), (42, &[0, 2][..]));
    skeleton.close().await.unwrap();
}

#[tokio::test]
async fn images_of_the_caller_do_as_well() {
    need!(docker, busybox);
    let engine = Engine::connect().await.unwrap();
    let image = busybox(&engine).await;
    let builder = Skeleton::builder("images")
        .engine(engine.clone())
        .node_image(&image)
        .iproute2_image(&image);
    let (skeleton, taps) = builder
        .link(Link::new().address("192.0.2.1/24"))
        .start()
        .await
        .unwrap();
    assert_eq!(taps.len(), 1);
    let node = &skeleton.nodes()[0];
    let ip = node
        .application("ip", &image)
        .unwrap()
        .command(["ip", "-o", "address", "show", "eth0"]);
    let output = ip.run(&engine).await.unwrap().success().unwrap();
    assert!(
        output.stdout_text().contains("inet 192.0.2.1/24"),
        "{}",
        output.stdout_text()
    );
    let run = skeleton.run_id().to_owned();
    skeleton.close().await.unwrap();
    assert_eq!(containers_of(&engine, &run).await, [""; 0]);
}

#[tokio::test]
async fn nodes_and_applications_have_no_capability_and_can_gain_none() {
    need!(docker, busybox);
    let engine = Engine::connect().await.unwrap();
    let image = busybox(&engine).await;
    let builder = Skeleton::builder("rights")
        .engine(engine.clone())
        .link(Link::new());
    let (skeleton, _taps) = builder.start().await.unwrap();
    // Process 1 of the namespace that they share is the node's.
    for process in ["self", "1"] {
        let file = format!("/proc/{process}/status");
        let cat = skeleton.nodes()[0]
            .application("cat", &image)
            .unwrap()
            .command(["cat", &file]);
        let output = cat.run(&engine).await.unwrap().success().unwrap();
        let status = output.stdout_text();
        for line in [
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ] {
            assert!(
                status.lines().any(|found| found == line),
                "no {line:?} in {file}: {status}"
            );
        }
    }
    skeleton.close().await.unwrap();
}

#[tokio::test]
async fn applications_know_localhost_and_have_ipv6_where_their_link_has() {
    need!(docker, busybox);
    let engine = Engine::connect().await.unwrap();
    let image = busybox(&engine).await;
    let builder = Skeleton::builder("names")
        .engine(engine.clone())
        .link(Link::new().address("192.0.2.1/24"))
        .link(Link::new().address("fd00::1/64"));
    let (skeleton, _taps) = builder.start().await.unwrap();
    let run = async |node: usize, script: &str| {
        let application = skeleton.nodes()[node].application("sh", &image).unwrap();
        let output = application.command(["sh", "-c", script]).run(&engine).await;
        output.unwrap().success().unwrap().stdout_text().into_owned()
    };
    let hosts = run(0, "echo 192.0.2.2 server >>/etc/hosts; cat /etc/hosts").await;
    assert!(
        hosts.contains("127.0.0.1\tlocalhost\n") && hosts.contains("\n::1\tlocalhost"),
        "{hosts}"
    );
    // For all of that node, and no other.
    assert_eq!(run(0, "grep server /etc/hosts").await, "192.0.2.2 server\n");
    assert_eq!(run(1, "grep server /etc/hosts || echo none").await, "none\n");
    // Not even the loopback interface has an address.
    assert_eq!(run(0, "cat /proc/net/if_inet6").await, "");
    let with = run(1, "cat /proc/net/if_inet6").await;
    assert!(with.contains("eth0") && with.contains(" lo"), "{with}");
    skeleton.close().await.unwrap();
}

#[tokio::test]
async fn nodes_and_helpers_may_do_their_work_and_nothing_else() {
    need!(docker);
    let engine = Engine::connect().await.unwrap();
    let builder = Skeleton::builder("helper-rights")
        .engine(engine.clone())
        .link(Link::new());
    let (started, node, helper) = tokio::join!(
        builder.start(),
        seen(&engine, "helper-rights", "-node0"),
        seen(&engine, "helper-rights", "-create-taps"),
    );
    let (skeleton, _taps) = started.unwrap();
    has_rights(&engine, &node, &[]);
    // What it works in is lent to it: it is in no namespace but its own.
    has_rights(&engine, &helper, &["NET_ADMIN"]);
    // Podman has a word for it.
    let own_pids = if engine.info().podman { "private" } else { "" };
    for rights in [&node["HostConfig"], &helper["HostConfig"]] {
        assert_eq!(
            (&rights["NetworkMode"], &rights["PidMode"]),
            (&json!("none"), &json!(own_pids))
        );
    }

    let node = &skeleton.nodes()[0];
    let (interface, helper) =
        tokio::join!(node.interface(), seen(&engine, "helper-rights", "-node0-inspect"));
    interface.unwrap();
    has_rights(&engine, &helper, &["NET_ADMIN"]);
    let rights = &helper["HostConfig"];
    let (network, processes) = if engine.info().podman {
        let pid = node.pid().await.unwrap();
        (format!("ns:/proc/{pid}/ns/net"), format!("ns:/proc/{pid}/ns/pid"))
    } else {
        let of_node = format!("container:{}", node.id());
        (of_node.clone(), of_node)
    };
    assert_eq!(
        (&rights["NetworkMode"], &rights["PidMode"]),
        (&json!(network), &json!(processes))
    );
    skeleton.close().await.unwrap();
}

/// A container of alpy's has these capabilities, the tun device and the folder of its socket, and no other part of the host.
fn has_rights(engine: &Engine, container: &Value, capabilities: &[&str]) {
    let rights = &container["HostConfig"];
    let added = rights["CapAdd"].as_array().map_or(&[][..], Vec::as_slice);
    assert_eq!(added, capabilities);
    // Podman names them all, but for those that it would not have given anyway.
    let podman = engine.info().podman;
    let dropped = rights["CapDrop"].as_array().expect("a list");
    assert!(
        *dropped == [json!("ALL")] || podman && dropped.contains(&json!("SYS_CHROOT")),
        "{dropped:?}"
    );
    assert_eq!(rights["SecurityOpt"], json!(["no-new-privileges"]));
    assert_eq!(
        (&rights["ReadonlyRootfs"], &rights["Privileged"]),
        (&json!(true), &json!(false))
    );
    let devices = rights["Devices"].as_array().expect("a list");
    assert_eq!(
        (devices.len(), &devices[0]["PathOnHost"]),
        (1, &json!("/dev/net/tun"))
    );
    let mounts = container["Mounts"].as_array().expect("a list");
    assert_eq!(
        (mounts.len(), &mounts[0]["Destination"]),
        (1, &json!("/run/alpy"))
    );
}

#[tokio::test]
async fn taps_by_name_that_are_dropped_are_removed_by_the_guardian() {
    need!(docker);
    let engine = Engine::connect().await.unwrap();
    let builder = Skeleton::builder("dropped")
        .engine(engine.clone())
        .link(Link::new());
    let Some(pending) = unless_rootless(&engine, builder.start_with_named_taps().await) else {
        return;
    };
    let name = pending.names().next().unwrap().to_owned();
    assert!(std::fs::exists(format!("/sys/class/net/{name}")).unwrap());
    drop(pending);
    eventually("the tap is gone", async || {
        !std::fs::exists(format!("/sys/class/net/{name}")).unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_tap_by_name_waits_in_the_host_and_moves_to_its_node() {
    need!(docker);
    let engine = Engine::connect().await.unwrap();
    let builder = Skeleton::builder("named")
        .engine(engine.clone())
        .link(Link::new().address("192.0.2.1/24"));
    let Some(pending) = unless_rootless(&engine, builder.start_with_named_taps().await) else {
        return;
    };
    let name = pending.names().next().unwrap().to_owned();
    let in_host = || std::fs::exists(format!("/sys/class/net/{name}")).unwrap();
    assert!(in_host(), "{name} is not among the interfaces of the host");
    let skeleton = pending.attach().await.unwrap();
    assert!(!in_host(), "{name} is still among the interfaces of the host");
    let eth0 = skeleton.nodes()[0].interface().await.unwrap();
    assert_eq!(eth0.addresses[0].to_string(), "192.0.2.1/24");
    skeleton.close().await.unwrap();
}

/// Taps by name are refused with a rootless engine, whose host namespace is another one than ours, and work with any other.
fn unless_rootless(engine: &Engine, started: alpy::Result<NamedTaps>) -> Option<NamedTaps> {
    if engine.info().rootless {
        let refused = started.err();
        assert!(matches!(refused, Some(Error::NamedTapsRootless)), "{refused:?}");
        return None;
    }
    Some(started.expect("taps by name"))
}

#[tokio::test]
async fn taps_by_name_that_are_not_attached_are_deleted() {
    need!(docker);
    let engine = Engine::connect().await.unwrap();
    let builder = Skeleton::builder("given-up")
        .engine(engine.clone())
        .link(Link::new())
        .link(Link::new());
    let Some(pending) = unless_rootless(&engine, builder.start_with_named_taps().await) else {
        return;
    };
    let names: Vec<_> = pending.names().map(str::to_owned).collect();
    pending.close().await.unwrap();
    for name in names {
        assert!(
            !std::fs::exists(format!("/sys/class/net/{name}")).unwrap(),
            "{name} stayed"
        );
    }
}

#[tokio::test]
async fn a_bad_value_is_refused_before_anything_is_touched() {
    // No engine is asked, so none is needed.
    let builder = Skeleton::builder("bad")
        .link(Link::new())
        .link(Link::new().address("192.168.0.300/24"));
    let error = builder.start().await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(matches!(error, Error::Link { index: 1, .. }), "{error}");
    assert!(source.contains("192.168.0.300/24"), "{source}");
}

/// What the host forwards and filters is no matter of the nodes. Root sets it both ways; others look at how it is.
#[tokio::test]
async fn a_node_does_not_inherit_the_hosts_settings() {
    need!(docker, busybox);
    let engine = Engine::connect().await.unwrap();
    let image = busybox(&engine).await;
    let is_root = nix::unistd::geteuid().is_root();
    for value in ["1", "0"] {
        let host = is_root.then(|| HostSettings::set(value));
        let links = [
            Link::new().address("192.0.2.1/24"),
            Link::new().address("2001:db8::1/64"),
        ];
        let [ipv4, ipv6] = links;
        let builder = Skeleton::builder("settings-of-host").engine(engine.clone());
        let (skeleton, _taps) = builder.link(ipv4).link(ipv6).start().await.unwrap();
        drop(host);
        for (node, version, expected) in [
            (
                0,
                "ipv4",
                "forwarding=0 rp_filter=0 accept_redirects=1 proxy_arp=0 arp_ignore=0 ",
            ),
            (
                1,
                "ipv6",
                "forwarding=0 accept_ra=1 accept_redirects=1 use_tempaddr=0 disable_ipv6=0 ",
            ),
        ] {
            let names = expected.split('=').filter_map(|part| part.split(' ').next_back());
            let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
            let script = format!(
                "for of in all default eth0; do for name in {}; do read value < /proc/sys/net/{version}/conf/$of/$name; \
                 echo -n $name=$value' '; done; echo; done",
                names.join(" ")
            );
            let look = skeleton.nodes()[node].application("look", &image).unwrap();
            let output = look.command(["sh", "-c", &script]).run(&engine).await.unwrap();
            let output = output.success().unwrap();
            assert_eq!(
                output.stdout_text(),
                format!("{expected}\n").repeat(3),
                "with {value} on the host"
            );
        }
        skeleton.close().await.unwrap();
    }
}

/// Settings of the host, which are as they were when this is dropped.
struct HostSettings(Vec<(String, String)>);

impl HostSettings {
    fn set(value: &str) -> Self {
        let of = |which: &str, name: &str| format!("/proc/sys/net/ipv4/conf/{which}/{name}");
        let mut before = Vec::new();
        // The kernel sets the second together with the first one.
        for name in [
            "forwarding",
            "accept_redirects",
            "rp_filter",
            "proxy_arp",
            "arp_ignore",
        ] {
            for which in ["all", "default"] {
                let path = of(which, name);
                before.push((
                    path.clone(),
                    std::fs::read_to_string(&path).expect("a setting of the host"),
                ));
            }
        }
        let settings = Self(before);
        for (path, _) in &settings.0 {
            std::fs::write(path, value).expect("root may set it");
        }
        settings
    }
}

impl Drop for HostSettings {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            let _ = std::fs::write(path, value);
        }
    }
}
