// SPDX-License-Identifier: GPL-3.0-or-later
//! Who spoke with whom.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::{Capture, Error, Packet};

/// One end of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port, if the protocol is TCP or UDP.
    pub port: Option<u16>,
}

/// How much there was: one way of a [`Conversation`], or in an interval of [`Capture::over_time`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Volume {
    /// Frames.
    pub frames: u64,
    /// Their lengths on the wire in bytes, Ethernet headers included.
    pub bytes: u64,
}

/// All IP packets of one protocol between two endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conversation {
    /// The protocol, such as 1 for ICMP, 6 for TCP, 17 for UDP.
    pub protocol: u8,
    /// The end that spoke first.
    pub client: Endpoint,
    /// The other end.
    pub server: Endpoint,
    /// From the client to the server.
    pub sent: Volume,
    /// From the server to the client.
    pub received: Volume,
    /// The time of the first packet, as in [`Frame::timestamp`](crate::Frame::timestamp).
    pub first: Duration,
    /// The time of the last one.
    pub last: Duration,
}

impl Volume {
    pub(crate) fn add(&mut self, packet: &Packet<'_>) {
        self.frames += 1;
        self.bytes += u64::from(packet.frame().original_len());
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port)),
            None => write!(f, "{}", self.address),
        }
    }
}

impl Capture {
    /// Who spoke with whom, in the order of their first packets. Fragments but the first have no ports, and make a conversation of
    /// their own.
    ///
    /// ```no_run
    /// # let capture = alpy_pcap::Capture::open("link1.pcap")?;
    /// for conversation in capture.conversations()? {
    ///     println!("{} > {}: {} bytes", conversation.client, conversation.server, conversation.sent.bytes);
    /// }
    /// # Ok::<_, alpy_pcap::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Reader::open`](crate::Reader::open) and [`Reader::next_frame`](crate::Reader::next_frame).
    pub fn conversations(&self) -> Result<Vec<Conversation>, Error> {
        let mut all: Vec<Conversation> = Vec::new();
        let mut known: HashMap<(u8, Endpoint, Endpoint), usize> = HashMap::new();
        self.for_each(|packet| {
            let Some((protocol, from, to)) = ends(packet) else {
                return;
            };
            let time = packet.frame().timestamp();
            // What an endpoint sends itself goes one way.
            let backwards = known.get(&(protocol, to, from)).copied().filter(|_| from != to);
            let index = backwards.unwrap_or_else(|| {
                *known.entry((protocol, from, to)).or_insert_with(|| {
                    all.push(Conversation {
                        protocol,
                        client: from,
                        server: to,
                        sent: Volume::default(),
                        received: Volume::default(),
                        first: time,
                        last: time,
                    });
                    all.len() - 1
                })
            });
            let conversation = &mut all[index];
            conversation.last = time;
            let volume = match backwards {
                Some(_) => &mut conversation.received,
                None => &mut conversation.sent,
            };
            volume.add(packet);
        })?;
        Ok(all)
    }
}

fn ends(packet: &Packet<'_>) -> Option<(u8, Endpoint, Endpoint)> {
    let ip = packet.ip()?;
    let ports = packet
        .tcp()
        .map(|tcp| (tcp.source_port, tcp.destination_port))
        .or_else(|| packet.udp().map(|udp| (udp.source_port, udp.destination_port)));
    let end = |address, port| Endpoint { address, port };
    let (source, destination) = ports.unzip();
    Some((
        ip.protocol,
        end(ip.source, source),
        end(ip.destination, destination),
    ))
}
