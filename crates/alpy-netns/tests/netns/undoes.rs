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
    // Held open here, and so links that were there before for the request that fails.
    let standing = Request::new()
        .tap(name("stays"))
        .link(LinkChange::of(name("stays")).without_ipv6_link_local().up())
        .address(name("stays"), "198.51.100.1/24".parse().unwrap())
        .tap(name("moves"))
        .link(
            LinkChange::of(name("moves"))
                .mac("52:54:00:00:00:01".parse().unwrap())
                .mtu_bytes(1300),
        );
    let _taps = lab.run(&standing).await.unwrap().taps;
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
            assert_eq!(failure.step, 9, "{failure}");
            assert_eq!(failure.operation, "add route to 10.0.0.0/8 via 203.0.113.1");
            assert_eq!(failure.left, Vec::<String>::new());
        }
        other => panic!("{other:?}"),
    }
    let after = (lab.state(), neighbour.ip("link"));
    assert_eq!(after, before, "{after:#?} instead of {before:#?}");
}

/// The kernel moves a link first and looks at the new name then: what is taken there has to be known before.
#[tokio::test]
async fn a_name_that_is_taken_in_the_other_namespace_is_refused_before_the_move() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    let (mut session, _helper) = lab.session().await;
    let there = Request::new()
        .namespace(Namespace::Pid(neighbour.pid()))
        .tap(name("eth0"));
    let _there = session.run(&there, DEADLINE).await.unwrap().taps;
    let _here = session
        .run(&Request::new().tap(name("tap0")).tap(name("tap1")), DEADLINE)
        .await
        .unwrap()
        .taps;
    let before = (lab.state(), neighbour.ip("link"));
    let change = |from, to| {
        LinkChange::of(name(from))
            .namespace(Namespace::Pid(neighbour.pid()))
            .name(name(to))
    };
    for request in [
        Request::new().link(change("tap0", "eth0")),
        Request::new()
            .link(change("tap0", "eth1"))
            .link(change("tap1", "eth1")),
    ] {
        let error = session.run(&request, DEADLINE).await.unwrap_err();
        assert!(
            error.to_string().ends_with(" already in that namespace"),
            "{error}"
        );
        assert_eq!((lab.state(), neighbour.ip("link")), before, "{error}");
    }
}
