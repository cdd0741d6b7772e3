// SPDX-License-Identifier: GPL-3.0-or-later
use alpy_need::need;
use alpy_netns::{Error, Impairment, LinkChange, Request};

use crate::lab::{DEADLINE, Lab, find, name};

/// The frames themselves are looked at in carrot's tests, on a kernel that has all of it.
#[tokio::test]
async fn what_comes_in_is_impaired_or_the_module_is_named_and_nothing_has_changed() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let (mut session, _helper) = lab.session().await;
    let tap = Request::new()
        .tap(name("eth0"))
        .link(LinkChange::of(name("eth0")).without_ipv6_link_local().up());
    let _tap = session.run(&tap, DEADLINE).await.unwrap();
    let before = lab.state();
    let impair = |impairment| Request::new().impair_received(name("eth0"), impairment);
    match session
        .run(&impair(Impairment::new().rate_bits(1_000_000)), DEADLINE)
        .await
    {
        Ok(_) => {
            let ifb = format!("ifb-{}", lab.ip("link show eth0")[0]["ifindex"]);
            let links = lab.ip("-d link");
            assert_eq!(find(&links, "ifname", &ifb)["qdisc"], "tbf", "{links:#}");
        }
        Err(Error::Failed(failure)) => {
            let text = failure.to_string();
            let modules = ["ifb", "sch_tbf", "sch_ingress", "cls_matchall", "act_mirred"];
            let named = |module: &&str| {
                text.contains(&format!("the kernel has no {module}; remedy: modprobe {module} "))
            };
            assert_eq!(modules.iter().filter(|module| named(module)).count(), 1, "{text}");
            assert!(
                text.starts_with("step 1 (impair what comes in through eth0: rate 1000000 bit/s): "),
                "{text}"
            );
            assert_eq!(failure.left, Vec::<String>::new());
            assert_eq!(lab.state(), before);
        }
        other => panic!("{other:?}"),
    }
    // To end what may not be there is no error.
    for _ in 0..2 {
        session.run(&impair(Impairment::new()), DEADLINE).await.unwrap();
        assert_eq!(lab.state(), before);
    }
}
