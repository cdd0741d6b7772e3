// SPDX-License-Identifier: GPL-3.0-or-later
use std::fs::File;
use std::io::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Child, Stdio};
use std::time::Duration;

use alpy_need::need;
use alpy_netns::{Error, LinkChange, Loan, Namespace, Request};

use crate::lab::{DEADLINE, Holder, Kill, Lab, find, name};

/// What a holder lends of a namespace beside the lab's. It runs there without a single capability.
async fn lend(lab: &Lab, neighbour: &Holder) -> (Loan, Kill) {
    let listener = lab.listener();
    let mut holder = neighbour.enter();
    holder
        .args(["setpriv", "--bounding-set=-all", "--inh-caps=-all"])
        .arg(lab.helper())
        .arg("hold")
        .arg(listener.socket())
        .stdin(Stdio::piped());
    let holder = Kill(holder.spawn().unwrap());
    let loan = listener.accept_loan(DEADLINE).await.unwrap();
    assert_eq!(capabilities(&holder.0), "0000000000000000");
    (loan, holder)
}

/// The descriptors of the loan once more, as a process has them that this one has just forked.
fn copies(loan: &Loan) -> Vec<OwnedFd> {
    let shown = format!("{loan:?}");
    let numbers = shown.split("fd: ").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap();
        rest[..end].parse().unwrap()
    });
    // SAFETY: the loan has them open.
    let copy = |number| unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned();
    let copies: Vec<OwnedFd> = numbers.map(|number| copy(number).unwrap()).collect();
    assert_eq!(copies.len(), 2, "{shown}");
    copies
}

fn capabilities(of: &Child) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", of.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_helper_elsewhere_makes_a_tap_in_a_lent_namespace() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    let (loan, _holder) = lend(&lab, &neighbour).await;
    // All that it has is NET_ADMIN, and that is not enough to enter a namespace.
    let (mut session, _helper) = lab
        .session_of(&["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all"])
        .await;
    let before = lab.state();
    let eth0 = name("eth0");
    let request = Request::new()
        .tap(eth0.clone())
        .link(LinkChange::of(eth0.clone()).without_ipv6_link_local().up())
        .address(eth0.clone(), "192.0.2.1/24".parse().unwrap())
        .default_route("192.0.2.254".parse().unwrap())
        .inspect(eth0);
    let mut answer = session.run_on(loan, &request, DEADLINE).await.unwrap();
    assert!(answer.links[0].up && answer.links[0].carrier);

    let links = neighbour.ip("-s link show");
    let there = find(&links, "ifname", "eth0");
    assert_eq!(there["stats64"]["rx"]["packets"], 0);
    let routes = neighbour.ip("route show");
    assert_eq!(find(&routes, "dst", "default")["gateway"], "192.0.2.254");
    assert_eq!(
        lab.state(),
        before,
        "nothing has happened in the helper's own namespace"
    );

    let mut tap: File = answer.taps.remove(0).into();
    tap.write_all(&[0xff; 60]).unwrap();
    let links = neighbour.ip("-s link show");
    assert_eq!(find(&links, "ifname", "eth0")["stats64"]["rx"]["packets"], 1);
}

#[tokio::test]
async fn a_lasting_tap_stays_without_its_descriptor_and_has_no_carrier() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    let (loan, _holder) = lend(&lab, &neighbour).await;
    let (mut session, _helper) = lab.session().await;
    let eth0 = name("eth0");
    let request = Request::new()
        .lasting_tap(eth0.clone())
        .link(LinkChange::of(eth0.clone()).up())
        .inspect(eth0);
    let answer = session.run_on(loan, &request, DEADLINE).await.unwrap();
    assert_eq!(answer.taps.len(), 1);
    assert!(answer.links[0].carrier);

    drop(answer.taps);
    // The kernel takes up to a second to notice.
    let noticed = async {
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            let links = neighbour.ip("link show");
            let flags = find(&links, "ifname", "eth0")["flags"].to_string();
            assert!(flags.contains("\"UP\""), "{flags}");
            if !flags.contains("LOWER_UP") {
                return;
            }
        }
    };
    let noticed = tokio::time::timeout(Duration::from_secs(5), noticed).await;
    noticed.expect("the carrier goes with the descriptor");
}

#[tokio::test]
async fn one_helper_works_for_many_holders_and_undoes_what_fails_in_one() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let neighbours = [lab.neighbour(), lab.neighbour()];
    let (mut session, _helper) = lab.session().await;
    let mut taps = Vec::new();
    for (neighbour, address) in neighbours.iter().zip(["192.0.2.1/24", "198.51.100.1/24"]) {
        let (loan, _holder) = lend(&lab, neighbour).await;
        let request = Request::new()
            .tap(name("eth0"))
            .link(LinkChange::of(name("eth0")).up())
            .address(name("eth0"), address.parse().unwrap());
        taps.extend(session.run_on(loan, &request, DEADLINE).await.unwrap().taps);
    }
    assert_eq!(taps.len(), 2);
    for (neighbour, address) in neighbours.iter().zip(["192.0.2.1", "198.51.100.1"]) {
        let addresses = neighbour.ip("-4 addr show eth0");
        assert_eq!(addresses[0]["addr_info"][0]["local"], address);
    }

    let third = lab.neighbour();
    let (loan, _holder) = lend(&lab, &third).await;
    let _somebody_else_has_it = copies(&loan);
    let fails = Request::new()
        .tap(name("eth0"))
        .default_route("203.0.113.1".parse().unwrap());
    let error = session.run_on(loan, &fails, DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains("203.0.113.1"), "{error}");
    assert_eq!(third.ip("link show").as_array().unwrap().len(), 1, "the loopback");
}

#[tokio::test]
async fn a_loan_is_good_for_one_tap_in_no_other_namespace() {
    need!(ip, tun, user_namespaces);
    let lab = Lab::new();
    let neighbour = lab.neighbour();
    let (mut session, _helper) = lab.session().await;
    let two = Request::new().tap(name("eth0")).tap(name("eth1"));
    let elsewhere = Request::new().namespace(Namespace::Pid(1)).tap(name("eth0"));
    for (request, reason) in [
        (two, "more taps than 1"),
        (elsewhere, "it is to be a lent one already"),
    ] {
        let (loan, _holder) = lend(&lab, &neighbour).await;
        let error = session.run_on(loan, &request, DEADLINE).await.unwrap_err();
        assert!(matches!(error, Error::Request { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn a_helper_that_lends_nothing_is_told_from_a_holder() {
    need!(user_namespaces);
    let lab = Lab::new();
    let listener = lab.listener();
    let mut helper = lab.enter();
    helper.arg(lab.helper()).arg("serve").arg(listener.socket());
    let _helper = Kill(helper.spawn().unwrap());
    let error = listener.accept_loan(DEADLINE).await.unwrap_err();
    assert!(
        error.to_string().contains("0 descriptors came for a loan"),
        "{error}"
    );
}
