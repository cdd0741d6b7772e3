// SPDX-License-Identifier: GPL-3.0-or-later
use std::collections::HashMap;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage, Stats64,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::sys::TokioSocket;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};

use super::qdisc::Qdisc;
use crate::{Counters, InterfaceName, IpPrefix, LinkInfo, MacAddr};

/// Of linux/rtnetlink.h.
pub(super) const TCA_OPTIONS: u16 = 2;

/// The links of a network namespace.
pub(super) struct Links(pub(super) Handle);

impl Links {
    /// Runs something with the links of the namespace where the socket was opened; without one, of the calling thread's.
    pub(super) fn with<T, F: Future<Output = Result<T, String>>>(
        socket: Option<OwnedFd>,
        work: impl FnOnce(Self) -> F,
    ) -> Result<T, String> {
        let text = |error: io::Error| format!("opening a netlink socket: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(text)?;
        runtime.block_on(async {
            let (connection, handle, _) = match socket {
                Some(socket) => {
                    let socket = socket.into_raw_fd();
                    // SAFETY: the descriptor is given away here.
                    rtnetlink::from_socket(unsafe { TokioSocket::from_raw_fd(socket) })
                }
                None => rtnetlink::new_connection().map_err(text)?,
            };
            tokio::spawn(connection);
            work(Self(handle)).await
        })
    }

    /// The number of each link by its name. Names that this crate would not give are left out.
    pub(super) async fn numbers(&self) -> io::Result<HashMap<InterfaceName, u32>> {
        let links: Vec<LinkMessage> = self.0.link().get().execute().try_collect().await.map_err(text)?;
        Ok(links
            .iter()
            .filter_map(|link| Some((name(link)?, link.header.index)))
            .collect())
    }

    /// The number of the link of this name.
    pub(super) async fn index(&self, name: &InterfaceName) -> io::Result<u32> {
        let mut named = self.0.link().get().match_name(name.to_string()).execute();
        let found = named.try_next().await.map_err(text)?;
        found
            .map(|link| link.header.index)
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(super) async fn get(&self, index: u32) -> io::Result<LinkMessage> {
        let found = self
            .0
            .link()
            .get()
            .match_index(index)
            .execute()
            .try_next()
            .await
            .map_err(text)?;
        found.ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(super) async fn set(&self, message: LinkMessageBuilder<LinkUnspec>) -> io::Result<()> {
        self.0.link().set(message.build()).execute().await.map_err(text)
    }

    pub(super) async fn delete(&self, index: u32) -> io::Result<()> {
        self.0.link().del(index).execute().await.map_err(text)
    }

    /// Adds an address and tells what would delete it.
    pub(super) async fn add_address(&self, index: u32, prefix: IpPrefix) -> io::Result<AddressMessage> {
        let mut request = self.0.address().add(index, prefix.address(), prefix.length());
        if prefix.address().is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        let message = request.message_mut().clone();
        request.execute().await.map_err(text)?;
        Ok(message)
    }

    pub(super) async fn delete_address(&self, message: AddressMessage) -> io::Result<()> {
        self.0.address().del(message).execute().await.map_err(text)
    }

    /// Adds a route and tells what would delete it.
    pub(super) async fn add_route(
        &self,
        destination: IpPrefix,
        gateway: Option<IpAddr>,
        index: Option<u32>,
    ) -> io::Result<RouteMessage> {
        let mismatch = |error| io::Error::new(ErrorKind::InvalidInput, format!("{error}"));
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination.address(), destination.length())
            .map_err(mismatch)?;
        if let Some(index) = index {
            route = route.output_interface(index);
        }
        route = match gateway {
            Some(gateway) => route.gateway(gateway).map_err(mismatch)?,
            // What is reached without a gateway is on the link itself.
            None => route.scope(RouteScope::Link),
        };
        let message = route.build();
        self.0
            .route()
            .add(message.clone())
            .execute()
            .await
            .map_err(text)?;
        Ok(message)
    }

    pub(super) async fn delete_route(&self, message: RouteMessage) -> io::Result<()> {
        self.0.route().del(message).execute().await.map_err(text)
    }

    /// Gives a link a queueing discipline, in place of the one that it has.
    pub(super) async fn set_qdisc(&self, index: u32, qdisc: Qdisc) -> io::Result<()> {
        let mut message = TcMessage::with_index(number(index)?);
        message.header.parent = TcHandle::ROOT;
        message.attributes = vec![
            TcAttribute::Kind(qdisc.kind.to_owned()),
            TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, qdisc.options)),
        ];
        // rtnetlink's own request takes no discipline but its own.
        let request = RouteNetlinkMessage::NewQueueDiscipline(message);
        let set = self.send(request, NLM_F_CREATE | NLM_F_REPLACE).await;
        set.map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(&format!("sch_{}", qdisc.kind)),
            _ => error,
        })
    }

    /// Takes the queueing discipline of a link away, if it has one of its own.
    pub(super) async fn delete_qdisc(&self, index: u32) -> io::Result<()> {
        let mut request = self.0.qdisc().del(number(index)?);
        request.message_mut().header.parent = TcHandle::ROOT;
        let deleted = request.execute().await;
        match deleted.map_err(text) {
            // The kernel's own has no handle, and cannot be deleted.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(()),
            other => other,
        }
    }

    /// Sends a message that is none of rtnetlink's own requests.
    pub(super) async fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.0.clone().request(request).map_err(text)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(error.to_io());
            }
        }
        Ok(())
    }

    pub(super) async fn info(&self, index: u32) -> io::Result<LinkInfo> {
        let link = self.get(index).await?;
        let addresses = self.0.address().get().set_link_index_filter(index).execute();
        let addresses: Vec<AddressMessage> = addresses.try_collect().await.map_err(text)?;
        let mut info = LinkInfo {
            name: name(&link).ok_or(ErrorKind::InvalidData)?,
            index,
            mac: String::new(),
            mtu_bytes: 0,
            up: is_up(&link),
            carrier: link.header.flags.contains(LinkFlags::LowerUp),
            addresses: addresses.iter().filter_map(prefix).collect(),
            counters: Counters::default(),
        };
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Address(bytes) => {
                    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    info.mac = pairs.join(":");
                }
                LinkAttribute::Mtu(mtu) => info.mtu_bytes = *mtu,
                LinkAttribute::Stats64(stats) => info.counters = counters(stats),
                _ => {}
            }
        }
        Ok(info)
    }
}

/// A message about a link that changes nothing yet.
pub(super) fn change(index: u32) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

/// Says how the kernel makes up the link's own IPv6 address.
pub(super) fn with_mode(
    message: LinkMessageBuilder<LinkUnspec>,
    mode: In6AddrGenMode,
) -> LinkMessageBuilder<LinkUnspec> {
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
    message.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![inet6]))
}

pub(super) fn with_mac(
    message: LinkMessageBuilder<LinkUnspec>,
    mac: MacAddr,
) -> LinkMessageBuilder<LinkUnspec> {
    message.address(mac.octets().to_vec())
}

pub(super) fn is_up(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up)
}

fn name(link: &LinkMessage) -> Option<InterfaceName> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => InterfaceName::new(name.as_str()).ok(),
        _ => None,
    })
}

/// The address that is the link's own: `Local`, where there is one, as the other is the peer's on a point-to-point link.
fn prefix(message: &AddressMessage) -> Option<IpPrefix> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    IpPrefix::new(address, message.header.prefix_len).ok()
}

fn counters(stats: &Stats64) -> Counters {
    Counters {
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        rx_errors: stats.rx_errors,
        rx_dropped: stats.rx_dropped,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        tx_errors: stats.tx_errors,
        tx_dropped: stats.tx_dropped,
    }
}

/// What a kernel without a module of its own lacks, by the module's name.
pub(super) fn missing(module: &str) -> io::Error {
    let option = match module {
        "ifb" => "CONFIG_IFB".to_owned(),
        _ => format!("CONFIG_NET_{}", module.to_uppercase()),
    };
    io::Error::new(
        ErrorKind::NotFound,
        format!(
            "the kernel has no {module}; remedy: modprobe {module} on the host of the engine, or a kernel that has it ({option})"
        ),
    )
}

/// As traffic control has it.
pub(super) fn number(index: u32) -> io::Result<i32> {
    i32::try_from(index).map_err(|_| ErrorKind::InvalidInput.into())
}

pub(super) fn text(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}
