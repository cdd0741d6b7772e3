// SPDX-License-Identifier: GPL-3.0-or-later
//! Whatever comes to the helper or from it, any request, and any text for a value in one.
#![no_main]

use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;

use alpy_fuzz::{Input, edited};
use alpy_netns::fuzzing::{message, request, texts, wire};
use alpy_netns::{InterfaceName, IpPrefix, LinkChange, MacAddr, Namespace, Request, Route};
use libfuzzer_sys::fuzz_target;

/// Texts of messages of either kind.
const MESSAGES: [&str; 3] = [
    r#"{"namespace":{"path":"/run/netns/a"},"operations":[{"create-tap":{"name":"eth0","owner_uid":null}},{"change-link":{"link":"eth0","name":"eth1","namespace":{"pid":7},"mac":"52:54:00:00:00:01","mtu_bytes":9000,"up":true,"without_ipv6_link_local":false}},{"add-address":{"link":"eth0","prefix":"fd00::1/64"}},{"add-route":{"destination":"10.0.0.0/8","gateway":"192.0.2.1","link":"eth0"}},{"inspect-link":{"link":"eth0"}},{"delete-link":{"link":"eth0"}}]}"#,
    r#"{"done":{"links":[{"name":"eth0","index":2,"mac":"","mtu_bytes":1500,"up":true,"carrier":false,"addresses":["10.0.0.1/8"],"counters":{"rx_packets":0,"rx_bytes":0,"rx_errors":0,"rx_dropped":0,"tx_packets":0,"tx_bytes":0,"tx_errors":0,"tx_dropped":0}}]}}"#,
    r#"{"failed":{"step":1,"operation":"create tap eth0","reason":"no","left":["tap0"]}}"#,
];

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    match input.below(5) {
        0 => {
            let pieces = input.pieces();
            wire(input.rest(), &pieces);
        }
        1 => {
            let pieces = input.pieces();
            message(input.rest(), &pieces);
        }
        2 => {
            let pieces = input.pieces();
            let text = MESSAGES[input.below(MESSAGES.len())].as_bytes().to_vec();
            message(&edited(text, &mut input), &pieces);
        }
        3 => {
            let pieces = input.pieces();
            let mut built = Request::new();
            if input.flag() {
                built = built.namespace(namespace(&mut input));
            }
            for _ in 0..300 {
                if input.is_empty() {
                    break;
                }
                built = step(built, &mut input);
            }
            request(&built, &pieces);
        }
        _ => texts(&String::from_utf8_lossy(input.rest())),
    }
});

fn step(request: Request, input: &mut Input<'_>) -> Request {
    let kind = input.byte();
    let Ok(link) = InterfaceName::new(input.text()) else {
        return request;
    };
    match kind % 16 {
        0 => request.tap(link),
        1 => request.persistent_tap(link, input.number() as u32),
        2..=6 => request.link(change(LinkChange::of(link), input)),
        7 | 8 => match prefix(input) {
            Some(prefix) => request.address(link, prefix),
            None => request,
        },
        9 | 10 => request.default_route(address(input)),
        11..=13 => {
            let Some(prefix) = prefix(input) else {
                return request;
            };
            let mut route = Route::to(if input.flag() { prefix } else { prefix.network() });
            if input.flag() {
                route = route.via(address(input));
            }
            if input.flag() {
                route = route.link(link);
            }
            request.route(route)
        }
        14 => request.inspect(link),
        _ => request.delete(link),
    }
}

fn change(mut change: LinkChange, input: &mut Input<'_>) -> LinkChange {
    let what = input.byte();
    if what & 1 != 0 {
        change = change.namespace(namespace(input));
    }
    if what & 2 != 0 {
        let bytes = std::array::from_fn(|_| input.byte());
        change = MacAddr::new(bytes).map_or(change.clone(), |mac| change.mac(mac));
    }
    if what & 4 != 0 {
        change = change.mtu_bytes(input.number() as u32 * 2);
    }
    if what & 8 != 0 {
        change = InterfaceName::new(input.text()).map_or(change.clone(), |name| change.name(name));
    }
    if what & 0x70 == 0 {
        change = change.without_ipv6_link_local();
    }
    match what >> 6 {
        0 => change.up(),
        1 => change.down(),
        _ => change,
    }
}

fn namespace(input: &mut Input<'_>) -> Namespace {
    match input.below(4) {
        0 => Namespace::Pid((input.number() as u32) << 16 | input.number() as u32),
        1 => Namespace::Passed(input.number()),
        _ => Namespace::Path(OsStr::from_bytes(input.part()).into()),
    }
}

fn address(input: &mut Input<'_>) -> IpAddr {
    if input.flag() {
        IpAddr::from(std::array::from_fn::<u8, 4, _>(|_| input.byte()))
    } else {
        IpAddr::from(std::array::from_fn::<u8, 16, _>(|_| input.byte()))
    }
}

fn prefix(input: &mut Input<'_>) -> Option<IpPrefix> {
    IpPrefix::new(address(input), input.byte()).ok()
}
