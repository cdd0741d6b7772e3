// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs::File;
use std::os::fd::AsFd;

use alpy_need::need;
use alpy_netns::{LinkChange, MacAddr, Namespace, Request, Route};
use serde_json::json;

use crate::lab::{DEADLINE, Lab, find, name};

#[tokio::test]
async fn sets_name_mac_and_mtu_and_raises_and_lowers() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let (mut session, _helper) = lab.session().await;
    let mac: MacAddr = "52:54:00:12:34:56".parse().unwrap();
    let change = LinkChange::of(name("tap0"))
        .name(name("eth0"))
        .mac(mac)
        .mtu_bytes(9000)
        .up();
    let request = Request::new()
        .tap(name("tap0"))
        .link(change)
        .inspect(name("eth0"));
    let answer = session.run(&request, DEADLINE).await.unwrap();
    let link = &lab.ip("link show eth0")[0];
    assert_eq!(link["address"], "52:54:00:12:34:56");
    assert_eq!(link["mtu"], 9000);
    assert!(link["flags"].as_array().unwrap().contains(&json!("UP")), "{link}");
    let info = &answer.links[0];
    assert_eq!(
        (info.mac.as_str(), info.mtu_bytes, info.up),
        ("52:54:00:12:34:56", 9000, true)
    );
    assert_eq!(link["ifindex"], info.index);

    let request = Request::new()
        .link(LinkChange::of(name("eth0")).down())
        .inspect(name("eth0"));
    assert!(!session.run(&request, DEADLINE).await.unwrap().links[0].up);
    let link = &lab.ip("link show eth0")[0];
    assert!(
        !link["flags"].as_array().unwrap().contains(&json!("UP")),
        "{link}"
    );
}

#[tokio::test]
async fn adds_addresses_and_routes_of_both_ip_versions() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let eth0 = name("eth0");
    let request = Request::new()
        .tap(eth0.clone())
        .link(LinkChange::of(eth0.clone()).without_ipv6_link_local().up())
        .address(eth0.clone(), "192.168.0.1/24".parse().unwrap())
        .address(eth0.clone(), "fd00::1/64".parse().unwrap())
        .default_route("192.168.0.2".parse().unwrap())
        .default_route("fd00::2".parse().unwrap())
        .route(Route::to("10.0.0.0/8".parse().unwrap()).via("192.168.0.3".parse().unwrap()))
        .route(Route::to("172.16.0.0/12".parse().unwrap()).link(eth0.clone()))
        .route(
            Route::to("fd01::/64".parse().unwrap())
                .via("fd00::3".parse().unwrap())
                .link(eth0.clone()),
        )
        .inspect(eth0.clone());
    let answer = lab.run(&request).await.unwrap();
    let addresses: Vec<String> = answer.links[0]
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(addresses, ["192.168.0.1/24", "fd00::1/64"]);

    let link = lab.ip("addr show eth0");
    let v4 = find(&link[0]["addr_info"], "family", "inet");
    assert_eq!(
        (&v4["local"], &v4["prefixlen"]),
        (&json!("192.168.0.1"), &json!(24))
    );
    let v6 = find(&link[0]["addr_info"], "family", "inet6");
    assert_eq!((&v6["local"], &v6["prefixlen"]), (&json!("fd00::1"), &json!(64)));
    // Usable at once, not in a second or two.
    assert_eq!(
        (&v6["nodad"], &v6["tentative"]),
        (&json!(true), &json!(null)),
        "{v6}"
    );

    let routes = lab.ip("route");
    assert_eq!(find(&routes, "dst", "default")["gateway"], "192.168.0.2");
    assert_eq!(find(&routes, "dst", "10.0.0.0/8")["gateway"], "192.168.0.3");
    let on_link = find(&routes, "dst", "172.16.0.0/12");
    assert_eq!(
        (&on_link["dev"], &on_link["scope"]),
        (&json!("eth0"), &json!("link"))
    );
    let routes = lab.ip("-6 route");
    assert_eq!(find(&routes, "dst", "default")["gateway"], "fd00::2");
    let far = find(&routes, "dst", "fd01::/64");
    assert_eq!(
        (&far["gateway"], &far["dev"]),
        (&json!("fd00::3"), &json!("eth0"))
    );
}

#[tokio::test]
async fn a_link_without_ipv6_link_local_gets_no_address_by_itself() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let request = Request::new()
        .tap(name("quiet"))
        .link(LinkChange::of(name("quiet")).without_ipv6_link_local().up())
        .tap(name("usual"))
        .link(LinkChange::of(name("usual")).up());
    let _taps = lab.run(&request).await.unwrap().taps;
    assert_eq!(lab.ip("-d link show quiet")[0]["inet6_addr_gen_mode"], "none");
    assert_eq!(lab.ip("addr show quiet")[0]["addr_info"], json!([]));
    // The control: what the kernel does otherwise.
    assert_eq!(lab.ip("addr show usual")[0]["addr_info"][0]["scope"], "link");
}

#[tokio::test]
async fn moves_renames_and_raises_in_one_step_whatever_way_the_namespace_is_named() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let (mut session, _helper) = lab.session().await;
    let neighbour = lab.neighbour();
    let path = format!("/proc/{}/ns/net", neighbour.pid());
    let passed = File::open(&path).unwrap();
    let ways = [
        ("eth1", Namespace::Path(path.into())),
        ("eth2", Namespace::Pid(neighbour.pid())),
        ("eth3", Namespace::Passed(0)),
    ];
    let mut taps = Vec::new();
    for (new, namespace) in ways {
        let change = LinkChange::of(name("tap0"))
            .namespace(namespace)
            .name(name(new))
            .mtu_bytes(1400)
            .up();
        let request = Request::new().tap(name("tap0")).link(change);
        taps.extend(
            session
                .run_passing(&request, &[passed.as_fd()], DEADLINE)
                .await
                .unwrap()
                .taps,
        );
        let link = &neighbour.ip(&format!("link show {new}"))[0];
        assert_eq!(link["mtu"], 1400, "{new}");
        assert!(link["flags"].as_array().unwrap().contains(&json!("UP")), "{link}");
        assert_eq!(lab.ip("link").as_array().unwrap().len(), 1, "{new} has left");
    }
}

#[tokio::test]
async fn a_request_can_be_carried_out_in_another_namespace_from_the_start() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    let request = Request::new()
        .namespace(Namespace::Pid(neighbour.pid()))
        .tap(name("eth0"))
        .address(name("eth0"), "192.0.2.1/24".parse().unwrap());
    let (mut session, _helper) = lab.session().await;
    let _taps = session.run(&request, DEADLINE).await.unwrap().taps;
    assert_eq!(
        neighbour.ip("addr show eth0")[0]["addr_info"][0]["local"],
        "192.0.2.1"
    );
    // The helper itself has not moved there.
    let answer = session
        .run(&Request::new().tap(name("eth0")), DEADLINE)
        .await
        .unwrap();
    find(&lab.ip("link"), "ifname", "eth0");
    drop(answer);
}

#[tokio::test]
async fn the_loopback_reads_as_ip_shows_it() {
    need!(ip, user_namespaces);
    let lab = Lab::new();
    let request = Request::new()
        .link(LinkChange::of(name("lo")).up())
        .inspect(name("lo"));
    let info = lab.run(&request).await.unwrap().links.remove(0);
    let link = &lab.ip("addr show lo")[0];
    assert_eq!(link["address"], info.mac);
    assert_eq!(link["mtu"], info.mtu_bytes);
    let shown = link["addr_info"].as_array().unwrap().iter();
    let shown: Vec<String> = shown
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
        .collect();
    let read: Vec<String> = info.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(read, shown);
}
