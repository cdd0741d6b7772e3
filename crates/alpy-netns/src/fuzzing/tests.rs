// SPDX-License-Identifier: GPL-3.0-or-later
use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

use super::*;

/// The same cases in each run; the fuzzer is there to find others.
fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x5eed),
        ..ProptestConfig::default()
    }
}

fn name() -> impl Strategy<Value = InterfaceName> {
    "[!-~]{1,15}".prop_filter_map("no name", |name| InterfaceName::new(name).ok())
}

fn namespace() -> impl Strategy<Value = Namespace> {
    let path = vec(prop_oneof![99 => 1..0x80_u8, 1 => 1..=0xff_u8], 0..12);
    let path = path.prop_map(|bytes| PathBuf::from(OsStr::from_bytes(&bytes)));
    prop_oneof![
        path.prop_map(Namespace::Path),
        prop_oneof![1..100_000_u32, select(&[0, 1 << 31, u32::MAX][..])].prop_map(Namespace::Pid),
        (0..4_usize).prop_map(Namespace::Passed),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<Ipv4Addr>().prop_map(IpAddr::V4),
        any::<Ipv6Addr>().prop_map(IpAddr::V6),
        select(&["10.0.0.0", "::", "fd00::", "::ffff:10.0.0.1"][..]).prop_map(|text| text.parse().unwrap()),
    ]
}

fn prefix() -> impl Strategy<Value = IpPrefix> {
    (address(), 0..=128_u8, any::<bool>()).prop_map(|(address, length, whole)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = IpPrefix::new(address, length.min(most)).unwrap();
        if whole { prefix } else { prefix.network() }
    })
}

fn change() -> impl Strategy<Value = LinkChange> {
    let mac = any::<[u8; 6]>().prop_filter_map("no address", |bytes| MacAddr::new(bytes).ok());
    let mtu = prop_oneof![9 => 68..=65521_u32, 1 => any::<u32>()];
    let settings = (
        option::of(name()),
        option::of(mac),
        option::of(mtu),
        option::of(any::<bool>()),
    );
    // Both at once are refused.
    let there = prop_oneof![
        10 => (option::of(namespace()), Just(false)),
        5 => (Just(None), Just(true)),
        1 => (option::of(namespace()), Just(true)),
    ];
    (name(), settings, there).prop_map(
        |(link, (name, mac, mtu_bytes, up), (namespace, without_ipv6_link_local))| LinkChange {
            link,
            name,
            namespace,
            mac,
            mtu_bytes,
            up,
            without_ipv6_link_local,
        },
    )
}

fn route() -> impl Strategy<Value = Route> {
    let gateway = prop_oneof![9 => Just(None), 1 => option::of(address())];
    let route = (prefix(), gateway, option::weighted(0.9, name()));
    route.prop_map(|(destination, gateway, link)| Route {
        destination,
        gateway,
        link,
    })
}

fn end() -> impl Strategy<Value = TapEnd> {
    let owned = any::<u32>().prop_map(|owner_uid| TapEnd::ByDeletion { owner_uid });
    prop_oneof![Just(TapEnd::WithDescriptor), Just(TapEnd::WithNamespace), owned]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (name(), end()).prop_map(|(name, end)| Operation::CreateTap { name, end }),
        change().prop_map(Operation::ChangeLink),
        (name(), prefix()).prop_map(|(link, prefix)| Operation::AddAddress { link, prefix }),
        route().prop_map(Operation::AddRoute),
        name().prop_map(|link| Operation::InspectLink { link }),
    ]
}

fn impairment() -> impl Strategy<Value = Impairment> {
    let rate = option::of(prop_oneof![Just(7999), 8000..10_u64.pow(12)]);
    (rate, 0..70_000_u64, 0..70_000_u64, -0.1..1.1_f64).prop_map(|(rate, delay, jitter, share)| {
        let [delay, jitter] = [delay, jitter].map(Duration::from_millis);
        let impairment = Impairment::new().delay(delay).jitter(jitter).loss(share);
        match rate {
            Some(rate) => impairment.rate_bits(rate).reordering(share),
            None => impairment.corruption(share).duplication(share),
        }
    })
}

fn requests(most: usize) -> impl Strategy<Value = Request> {
    let deletion = prop_oneof![
        name().prop_map(|link| Operation::DeleteLink { link }),
        (name(), impairment()).prop_map(|(link, impairment)| Operation::ImpairLink { link, impairment }),
        (name(), impairment()).prop_map(|(link, impairment)| Operation::ImpairReceived { link, impairment }),
    ];
    let (steps, deletions, more) = (
        vec(operation(), 0..most),
        vec(deletion, 0..3),
        vec(operation(), 0..2),
    );
    let more = prop_oneof![9 => Just(Vec::new()), 1 => more];
    let place = (option::of(namespace()), any::<bool>());
    (place, steps, deletions, more).prop_map(|((namespace, lent), steps, deletions, more)| Request {
        namespace,
        lent,
        operations: [steps, deletions, more].concat(),
    })
}

fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..6_usize, 1..200_usize], 0..20)
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn a_request_is_refused_for_a_reason_or_arrives_as_it_was(request in requests(5), pieces in pieces()) {
        super::request(&request, &pieces);
    }

    #[test]
    fn what_was_mutilated_on_its_way_is_a_message_or_an_error(
        requests in vec(requests(3), 1..3),
        edits in vec((any::<Index>(), prop_oneof![any::<u8>(), select(&b"\"{}[],:0-"[..])]), 0..4),
        pieces in pieces(),
    ) {
        let json = requests.iter().filter_map(|request| serde_json::to_vec(request).ok());
        let framed = json.map(|json| [&(json.len() as u32).to_le_bytes(), &json[..]].concat());
        let mut bytes = framed.collect::<Vec<_>>().concat();
        for (at, byte) in edits.iter().take(if bytes.is_empty() { 0 } else { 4 }) {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        wire(&bytes, &pieces);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..100), pieces in pieces()) {
        wire(&bytes, &pieces);
        message(&bytes, &pieces);
    }
}

proptest! {
    #![proptest_config(cases(3))]

    #[test]
    fn a_request_too_long_for_a_socket_arrives_in_parts(names in vec(name(), 200..500), pieces in pieces()) {
        super::request(&names.into_iter().fold(Request::new(), Request::inspect), &pieces);
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_value_is_read_as_what_it_is_written(
        text in prop_oneof![
            any::<String>(),
            "[a-z.%:/ ]{0,17}",
            "(all|default|[.]{1,3})",
            "([0-9a-fA-F]{2}:){4,6}[0-9a-fA-F]{2}",
            "([0-9a-fA-F]{1,2}:){5}[+0-9a-fA-F]{1,3}",
            "([0-9]{1,3}[.]){2,4}[0-9]{1,3}/[+0-9]{0,3}",
            "([0-9a-f]{0,4}:){2,8}[0-9a-f]{0,4}/[0-9]{1,3}",
            prefix().prop_map(|prefix| prefix.to_string()),
        ],
    ) {
        texts(&text);
    }
}
