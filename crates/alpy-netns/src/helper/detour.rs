// SPDX-License-Identifier: GPL-3.0-or-later
//! The way round that frames take which come in: the kernel queues only what it sends, so they are sent through a link that does nothing
//! but give them back (`ifb`), as if they came in only now.

use std::io::{self, ErrorKind};

use nix::libc;
use rtnetlink::LinkIfb;
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::links::{Links, TCA_OPTIONS, missing, number, text};
use super::qdisc::attribute;
use crate::InterfaceName;

/// The name of the ifb of a link.
pub(super) fn name(link: u32) -> InterfaceName {
    let name = format!("ifb-{link}");
    name.parse().expect("it is short and plain")
}

impl Links {
    /// Adds an ifb and tells its number.
    pub(super) async fn add_ifb(&self, name: &InterfaceName) -> io::Result<u32> {
        let message = LinkIfb::new(name.as_str()).build();
        let added = self.0.link().add(message).execute().await.map_err(text);
        added.map_err(|error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => missing("ifb"),
            _ => error,
        })?;
        self.index(name).await
    }

    /// Sends what comes in through a link to its ifb. Where that is so already, or in part, it is no error to say it again.
    pub(super) async fn detour(&self, link: u32, ifb: u32, again: bool) -> io::Result<()> {
        let ingress = self.0.qdisc().add(number(link)?).ingress().execute().await;
        match ingress.map_err(text) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing("sch_ingress")),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && !again => {
                return Err(io::Error::new(
                    error.kind(),
                    "what comes in through it has a queueing discipline already, which is not alpy's",
                ));
            }
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let error = match self.add_filter(link, &redirect(ifb)).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && again => return Ok(()),
            Err(error) => error,
            Ok(()) => return Ok(()),
        };
        // The kernel says the same of both modules. The one without the other shows which it is.
        let alone = match lacks(&error) {
            true => Some(self.add_filter(link, &[]).await),
            false => None,
        };
        self.end_detour(link).await?;
        Err(match alone {
            Some(Ok(())) => missing("act_mirred"),
            Some(Err(error)) if lacks(&error) => missing("cls_matchall"),
            Some(Err(error)) => error,
            None => error,
        })
    }

    /// Has what comes in through a link come in as ever.
    pub(super) async fn end_detour(&self, link: u32) -> io::Result<()> {
        let mut request = self.0.qdisc().del(number(link)?);
        request.message_mut().header.parent = TcHandle::INGRESS;
        match request.execute().await.map_err(text) {
            // Somebody else has taken it away.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => Ok(()),
            other => other,
        }
    }

    /// Adds a filter that takes everything that comes in through a link.
    async fn add_filter(&self, link: u32, options: &[u8]) -> io::Result<()> {
        let mut message = TcMessage::with_index(number(link)?);
        message.header.handle = TcHandle::from(1);
        message.header.parent = TcHandle {
            major: u16::MAX,
            minor: TcHandle::MIN_INGRESS,
        };
        // The priority, and the protocol in the order of the network.
        message.header.info = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
        message.attributes = vec![
            TcAttribute::Kind("matchall".to_owned()),
            TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, options.to_vec())),
        ];
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        self.send(request, NLM_F_CREATE | NLM_F_EXCL).await
    }
}

/// Whether that is what the kernel says when it lacks a filter or an action, or has none at all.
fn lacks(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP))
}

/// The options of a matchall: one action, to send the frame through a link instead. linux/pkt_cls.h and linux/tc_act/tc_mirred.h have the
/// numbers.
fn redirect(ifb: u32) -> Vec<u8> {
    const NESTED: u16 = 0x8000;
    const TC_ACT_STOLEN: u32 = 4;
    const TCA_EGRESS_REDIR: u32 = 1;
    let nested = |kind: u16, value: &[u8]| {
        let mut bytes = Vec::new();
        attribute(&mut bytes, kind, value);
        bytes
    };
    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
    let fields = [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, ifb];
    let parameters = nested(2, &fields.map(u32::to_ne_bytes).concat());
    let action = [nested(1, b"mirred\0"), nested(NESTED | 2, &parameters)].concat();
    // TCA_MATCHALL_ACT, and in it the first action.
    nested(NESTED | 2, &nested(NESTED | 1, &action))
}
