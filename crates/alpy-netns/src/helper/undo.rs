// SPDX-License-Identifier: GPL-3.0-or-later
use std::io;
use std::os::fd::AsRawFd;

use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::packet_route::route::RouteMessage;

use super::links::{self, Links};
use super::places::{Place, own, within};
use crate::InterfaceName;

/// How to take a step back. Taps whose tun devices were opened for them are not here: closing their descriptors is all that it takes.
pub(super) enum Undo<'a> {
    Change {
        before: Before,
        /// The name after the change.
        name: InterfaceName,
        /// Where the change moved it.
        target: Option<&'a Place>,
    },
    Address(String, AddressMessage),
    Route(String, RouteMessage),
    /// A link, by its name and number, that no descriptor of this process ends.
    Link(InterfaceName, u32),
}

/// A link as it was before a change.
pub(super) struct Before {
    index: u32,
    name: InterfaceName,
    attributes: Vec<LinkAttribute>,
    mode: Option<In6AddrGenMode>,
    up: bool,
}

impl Undo<'_> {
    /// Takes the step back, or says what is left.
    pub(super) async fn undo(self, links: &Links) -> Result<(), String> {
        match self {
            Self::Change { before, name, target } => {
                let what = format!("the change of {}", before.name);
                let left = |error: String| format!("{what}: {error}");
                let mut index = before.index;
                if let (Some(target), Err(_)) = (target, links.get(index).await) {
                    fetch(target, &name, &before.name).map_err(left)?;
                    let numbers = links.numbers().await.map_err(|error| left(error.to_string()))?;
                    index = *numbers
                        .get(&before.name)
                        .ok_or_else(|| left("it has not come back".to_owned()))?;
                }
                before
                    .restore(links, index)
                    .await
                    .map_err(|error| left(error.to_string()))
            }
            Self::Address(what, message) => links
                .delete_address(message)
                .await
                .map_err(|error| format!("{what}: {error}")),
            Self::Route(what, message) => links
                .delete_route(message)
                .await
                .map_err(|error| format!("{what}: {error}")),
            Self::Link(name, index) => links
                .delete(index)
                .await
                .map_err(|error| format!("link {name}: {error}")),
        }
    }
}

impl Before {
    pub(super) async fn of(links: &Links, name: &InterfaceName, index: u32) -> io::Result<Self> {
        let link = links.get(index).await?;
        let mode = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::AfSpecUnspec(families) => families.iter().find_map(|family| match family {
                AfSpecUnspec::Inet6(settings) => settings.iter().find_map(|setting| match setting {
                    AfSpecInet6::AddrGenMode(mode) => Some(*mode),
                    _ => None,
                }),
                _ => None,
            }),
            _ => None,
        });
        let up = links::is_up(&link);
        let mut attributes = link.attributes;
        attributes.retain(|attribute| matches!(attribute, LinkAttribute::Address(_) | LinkAttribute::Mtu(_)));
        Ok(Self {
            index,
            name: name.clone(),
            attributes,
            mode,
            up,
        })
    }

    async fn restore(self, links: &Links, index: u32) -> io::Result<()> {
        // Down first: many kernels rename no link that is up. The mode before up: it is too late afterwards.
        links.set(links::change(index).down()).await?;
        let message = links::change(index).name(self.name.as_str());
        links
            .set(self.attributes.into_iter().fold(message, |message, attribute| {
                message.append_extra_attribute(attribute)
            }))
            .await?;
        if let Some(mode) = self.mode {
            links.set(links::with_mode(links::change(index), mode)).await?;
        }
        if self.up {
            links.set(links::change(index).up()).await?;
        }
        Ok(())
    }
}

/// Brings a link that has been moved away back to the calling thread's namespace, with its former name.
fn fetch(from: &Place, name: &InterfaceName, former: &InterfaceName) -> Result<(), String> {
    let home = own().map_err(|error| error.to_string())?;
    within(Some(from), || {
        Links::with(None, async |links| {
            let numbers = links.numbers().await.map_err(|error| error.to_string())?;
            // That the new name was free has been looked at. A move that failed half-way may not have renamed it yet.
            let index = *numbers
                .get(name)
                .or_else(|| numbers.get(former))
                .ok_or("it is nowhere")?;
            let back = links::change(index)
                .name(former.as_str())
                .setns_by_fd(home.as_raw_fd());
            links
                .set(links::change(index).down())
                .await
                .map_err(|error| error.to_string())?;
            links.set(back).await.map_err(|error| error.to_string())
        })
    })
}
