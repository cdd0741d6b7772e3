// SPDX-License-Identifier: GPL-3.0-or-later
//! What holds of the wire, of requests and of the values in them whatever comes: one oracle for the fuzzer and for the property
//! tests below.

use std::fmt::{Debug, Display};
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::str::FromStr;

use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::wire::{Hello, Incoming, Outgoing};
use crate::{
    Error, Impairment, InterfaceName, IpPrefix, LinkChange, MacAddr, Namespace, Operation, Reply, Request,
    Route, TapEnd,
};

/// More than a message may have.
const TOO_LONG: usize = (16 << 20) + 1;
/// How much a socket takes at once, so that a request is sent in parts. The kernel makes a few KiB of it.
const NARROW: usize = 1;

/// Takes bytes for what a peer says, in pieces of these lengths and then the rest: every whole message is there with its last
/// byte, up to the first thing that is none, and what was understood is what was said.
pub fn wire(bytes: &[u8], pieces: &[usize]) {
    for request in messages::<Request>(bytes, pieces) {
        self::request(&request, pieces);
    }
    for reply in messages::<Reply>(bytes, pieces) {
        if let Reply::Failed(failure) = &reply {
            assert!(failure.to_string().contains(&failure.reason));
        }
        assert_eq!(messages::<Reply>(&sent(&reply), pieces), [reply]);
    }
    messages::<Hello>(bytes, pieces);
}

/// Takes bytes for the text of one message.
pub fn message(text: &[u8], pieces: &[usize]) {
    let length = u32::try_from(text.len()).expect("a short text");
    wire(&[&length.to_le_bytes(), text].concat(), pieces);
}

/// A request is refused exactly for what its documentation says, in a step that it has. One that is not arrives as it is.
pub fn request(request: &Request, pieces: &[usize]) {
    let steps = request.operations.len();
    match request.check() {
        Ok(()) => {
            assert!(is_right(request), "taken: {request:?}");
            assert_eq!(
                messages::<Request>(&sent(request), pieces),
                std::slice::from_ref(request)
            );
        }
        Err(Error::Request { step, operation, .. }) => {
            assert!(!is_right(request), "refused: {request:?}");
            assert!(step <= steps);
            if let Some(refused) = step.checked_sub(1) {
                assert_eq!(operation, request.operations[refused].to_string());
            }
        }
        Err(error) => panic!("{error}"),
    }
    for operation in &request.operations {
        let line = operation.to_string();
        assert!(
            line.contains(' ') && !line.contains('\n') || has_a_path(operation),
            "{line:?}"
        );
    }
}

/// A value that a text is read as is written so that it is read as the same; a text that is none is named in the error.
pub fn texts(text: &str) {
    if let Some(name) = value::<InterfaceName>(text) {
        assert_eq!(name.as_str(), text);
    }
    assert_eq!(value::<InterfaceName>(text).is_some(), is_name(text), "{text:?}");

    let mac = value::<MacAddr>(text);
    let digits: String = text.split(':').collect();
    let is_mac = text.len() == 17
        && digits.len() == 12
        && text.split(':').all(|pair| pair.len() == 2)
        && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        && digits != "000000000000"
        && matches!(
            digits.as_bytes()[1].to_ascii_lowercase(),
            b'0' | b'2' | b'4' | b'6' | b'8' | b'a' | b'c' | b'e'
        );
    assert_eq!(mac.is_some(), is_mac, "{text:?}");
    if let Some(mac) = mac {
        assert_eq!(mac.to_string(), text.to_ascii_lowercase());
        assert_eq!(MacAddr::new(mac.octets()).ok(), Some(mac));
    }

    if let Some(prefix) = value::<IpPrefix>(text) {
        let (address, length) = text.split_once('/').expect("what is taken has a slash");
        assert_eq!(address.parse().ok(), Some(prefix.address()), "{text:?}");
        assert_eq!(length.parse().ok(), Some(prefix.length()), "{text:?}");
        let network = prefix.network();
        assert_eq!((network.length(), network.network()), (prefix.length(), network));
        let (all, of_network) = (bits(prefix.address()), bits(network.address()));
        assert!(usize::from(prefix.length()) <= all.len());
        assert_eq!(all.len(), of_network.len());
        let same = all
            .iter()
            .zip(&of_network)
            .take_while(|(bit, other)| bit == other)
            .count();
        assert!(same >= prefix.length().into(), "{prefix} is in {network}");
        assert!(!of_network[prefix.length().into()..].contains(&true), "{network}");
    }
}

/// All messages of one kind that a peer's bytes are.
fn messages<T: DeserializeOwned + Debug>(bytes: &[u8], pieces: &[usize]) -> Vec<T> {
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_nonblocking(true).expect("a socket");
    let mut incoming = Incoming::default();
    let mut messages = Vec::new();
    let mut expected = places::<T>(bytes);
    let mut delivered = 0;
    let pieces = pieces.iter().copied().filter(|length| *length > 0);
    for length in pieces.chain([bytes.len()]) {
        let piece = &bytes[delivered..(delivered + length).min(bytes.len())];
        // Less than a socket takes in any case.
        for part in piece.chunks(32 << 10) {
            theirs.write_all(part).expect("room in the socket");
            delivered += part.len();
            while incoming.receive(ours.as_fd()).is_ok_and(|more| more) {}
        }
        loop {
            let place = expected.first().copied();
            match (incoming.take(), place) {
                (Ok(Some((message, descriptors))), Some(Place::Message(end))) if end <= delivered => {
                    assert!(descriptors.is_empty());
                    messages.push(message);
                    expected.remove(0);
                }
                (Err(_), Some(Place::Nonsense(known))) if known <= delivered => {
                    assert!(incoming.take::<T>().is_err(), "and so it is from then on");
                    return messages;
                }
                (Ok(None), None) => break,
                (Ok(None), Some(Place::Message(later) | Place::Nonsense(later))) if later > delivered => {
                    break;
                }
                (taken, place) => panic!("{place:?} in {delivered} bytes: {taken:?}"),
            }
        }
    }
    drop(theirs);
    assert!(!incoming.receive(ours.as_fd()).expect("the end"));
    messages
}

/// Where a message ends, or from where on it is known that there is none.
#[derive(Clone, Copy, Debug)]
enum Place {
    Message(usize),
    Nonsense(usize),
}

/// What a plain reading of the bytes finds.
fn places<T: DeserializeOwned>(bytes: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + 4) {
        let length = head
            .iter()
            .rev()
            .fold(0, |length, byte| length << 8 | usize::from(*byte));
        if length >= TOO_LONG {
            places.push(Place::Nonsense(at + 4));
            break;
        }
        let Some(body) = bytes.get(at + 4..at + 4 + length) else {
            break;
        };
        at += 4 + length;
        if serde_json::from_slice::<T>(body).is_err() {
            places.push(Place::Nonsense(at));
            break;
        }
        places.push(Place::Message(at));
    }
    places
}

/// A message as it is sent, through a socket that takes it in parts.
fn sent(message: &impl Serialize) -> Vec<u8> {
    let mut outgoing = Outgoing::new(message, &[]).expect("what was checked can be sent");
    let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
    setsockopt(&ours, sockopt::SndBuf, &NARROW).expect("a socket");
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(true).expect("a socket");
    }
    let mut bytes = Vec::new();
    loop {
        let done = match outgoing.send(ours.as_fd()) {
            Ok(done) => done,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        };
        let before = bytes.len();
        // Until there is no more for now.
        let end = theirs.read_to_end(&mut bytes).expect_err("an open socket");
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
        assert!(bytes.len() > before, "there is room for a part of it");
        if done {
            return bytes;
        }
    }
}

/// What the documentation of the steps asks for.
fn is_right(request: &Request) -> bool {
    let is_for_good = |operation: &Operation| {
        matches!(
            operation,
            Operation::DeleteLink { .. } | Operation::ImpairLink { .. } | Operation::ImpairReceived { .. }
        )
    };
    let is_tap = |operation: &&Operation| matches!(operation, Operation::CreateTap { .. });
    let operations = &request.operations;
    request.namespace.as_ref().is_none_or(is_namespace)
        && operations.iter().all(step_is_right)
        && operations
            .iter()
            .skip_while(|step| !is_for_good(step))
            .all(is_for_good)
        && operations.iter().filter(is_tap).count() <= if request.lent { 1 } else { 253 }
        && !(request.lent && request.namespace.is_some())
}

fn impairment_is_right(impairment: &Impairment) -> bool {
    let Impairment {
        rate_bits,
        delay,
        jitter,
        loss,
        duplication,
        reordering,
        corruption,
    } = impairment;
    let shares = [loss, duplication, reordering, corruption];
    rate_bits.is_none_or(|rate| (8_000..=400_000_000_000).contains(&rate))
        && delay.as_nanos() <= 60_000_000_000
        && jitter.as_nanos() <= 2_000_000_000
        && jitter <= delay
        && shares.iter().all(|share| share.0.is_some())
        && (reordering.0 == Some(0) || !delay.is_zero())
}

fn step_is_right(operation: &Operation) -> bool {
    match operation {
        Operation::ImpairLink { impairment, .. } | Operation::ImpairReceived { impairment, .. } => {
            impairment_is_right(impairment)
        }
        Operation::ChangeLink(LinkChange {
            namespace,
            mtu_bytes,
            without_ipv6_link_local,
            ..
        }) => {
            mtu_bytes.is_none_or(|mtu| (68..=65521).contains(&mtu))
                && namespace.as_ref().is_none_or(is_namespace)
                && !(namespace.is_some() && *without_ipv6_link_local)
        }
        Operation::AddRoute(Route {
            destination,
            gateway,
            link,
        }) => {
            let is_v4 = destination.address().is_ipv4();
            !bits(destination.address())[destination.length().into()..].contains(&true)
                && gateway.is_none_or(|gateway| gateway.is_ipv4() == is_v4)
                && (gateway.is_some() || link.is_some())
        }
        _ => true,
    }
}

fn is_namespace(namespace: &Namespace) -> bool {
    match namespace {
        Namespace::Path(path) => path.to_str().is_some(),
        Namespace::Pid(pid) => (1..=0x7fff_ffff).contains(pid),
        Namespace::Passed(_) => true,
    }
}

/// A path is shown as it is.
fn has_a_path(operation: &Operation) -> bool {
    let Operation::ChangeLink(change) = operation else {
        return false;
    };
    matches!(change.namespace, Some(Namespace::Path(_)))
}

/// What the kernel and the crate's documentation ask of a name.
fn is_name(name: &str) -> bool {
    let is_allowed = |byte| (0x21..=0x7e).contains(&byte) && ![b'/', b':', b'%'].contains(&byte);
    (1..=15).contains(&name.len())
        && ![".", "..", "all", "default"].contains(&name)
        && name.bytes().all(is_allowed)
}

fn bits(address: IpAddr) -> Vec<bool> {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
    bits.collect()
}

/// A value, if the text is one: by itself, and in JSON.
fn value<T>(text: &str) -> Option<T>
where
    T: FromStr<Err = Error> + Display + Debug + PartialEq + Serialize + DeserializeOwned,
{
    let json = serde_json::to_string(text).expect("a text");
    let from_json = serde_json::from_str::<T>(&json);
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(from_json.ok().as_ref(), Some(&value), "{text:?}");
            assert_eq!(
                value.to_string().parse::<T>().ok().as_ref(),
                Some(&value),
                "{text:?}"
            );
            let json = serde_json::to_string(&value).expect("a value");
            assert_eq!(
                serde_json::from_str(&json).ok().as_ref(),
                Some(&value),
                "{text:?}"
            );
            Some(value)
        }
        Err(error) => {
            assert!(from_json.is_err(), "{text:?}");
            // An address that no interface can have is named as it is written, not as it was.
            let shown = error.to_string().to_ascii_lowercase();
            assert!(
                shown.contains(&format!("{text:?}").to_ascii_lowercase()),
                "{shown}"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests;
