// SPDX-License-Identifier: GPL-3.0-or-later
use alpy_need::need;
use alpy_netns::{Error, LinkChange, Namespace, Request, Route};

use crate::lab::{DEADLINE, Lab, name};

/// A gateway that is on no link: the kernel refuses it, and nothing but the kernel can know.
fn impossible() -> Route {
    Route::to("10.0.0.0/8".parse().unwrap()).via("203.0.113.1".parse().unwrap())
}

#[tokio::test]
async fn a_step_that_the_kernel_refuses_undoes_all_the_others() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    let standing = Request::new()
        .persistent_tap(name("stays"), 0)
        .link(LinkChange::of(name("stays")).up())
        .address(name("stays"), "198.51.100.1/24".parse().unwrap())
        .persistent_tap(name("moves"), 0)
        .link(
            LinkChange::of(name("moves"))
                .mac("52:54:00:00:00:01".parse().unwrap())
                .mtu_bytes(1300),
        );
    lab.run(&standing).await.unwrap();
    let before = (lab.state(), neighbour.ip("link"));
    let away = LinkChange::of(name("moves"))
        .namespace(Namespace::Pid(neighbour.pid()))
        .name(name("moved"));
    let request = Request::new()
        .tap(name("new0"))
        .persistent_tap(name("new1"), 0)
        .link(LinkChange::of(name("new1")).namespace(Namespace::Pid(neighbour.pid())))
        .link(
            away.mac("52:54:00:00:00:02".parse().unwrap())
                .mtu_bytes(1400)
                .up(),
        )
        .link(LinkChange::of(name("lo")).up())
        .link(
            LinkChange::of(name("stays"))
                .name(name("other"))
                .mtu_bytes(1280)
                .without_ipv6_link_local(),
        )
        .address(name("other"), "192.0.2.1/24".parse().unwrap())
        .address(name("other"), "fd00::1/64".parse().unwrap())
        .route(Route::to("10.1.0.0/16".parse().unwrap()).link(name("other")))
        .route(impossible());
    match lab.run(&request).await {
        Err(Error::Failed(failure)) => {
            assert_eq!(failure.step, 10, "{failure}");
            assert_eq!(failure.operation, "add route to 10.0.0.0/8 via 203.0.113.1");
            assert_eq!(failure.left, Vec::<String>::new());
        }
        other => panic!("{other:?}"),
    }
    let after = (lab.state(), neighbour.ip("link"));
    assert_eq!(after, before, "{after:#?} instead of {before:#?}");
}

#[tokio::test]
async fn a_move_that_fails_half_way_is_undone() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    let (mut session, _helper) = lab.session().await;
    let there = Request::new()
        .namespace(Namespace::Pid(neighbour.pid()))
        .persistent_tap(name("eth0"), 0);
    session.run(&there, DEADLINE).await.unwrap();
    session
        .run(&Request::new().persistent_tap(name("tap0"), 0), DEADLINE)
        .await
        .unwrap();
    let before = (lab.state(), neighbour.ip("link"));
    // The kernel moves first and renames then, and there the name is taken.
    let change = LinkChange::of(name("tap0"))
        .namespace(Namespace::Pid(neighbour.pid()))
        .name(name("eth0"));
    let error = session
        .run(&Request::new().link(change), DEADLINE)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("name eth0"), "{error}");
    assert_eq!((lab.state(), neighbour.ip("link")), before, "{error}");
}
