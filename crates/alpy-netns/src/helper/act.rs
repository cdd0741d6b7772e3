// SPDX-License-Identifier: GPL-3.0-or-later
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;

use rtnetlink::packet_route::link::In6AddrGenMode;

use super::carry_out::failure;
use super::detour;
use super::links::{self, Links};
use super::places::Place;
use super::qdisc::Qdisc;
use super::tap::Tap;
use super::undo::{Before, Undo};
use crate::{Answer, Failure, Impairment, InterfaceName, LinkChange, LinkInfo, Operation, Request, TapEnd};

/// Does the steps of a request that has been looked at; what is done is undone if a later step fails.
///
/// `targets` are the namespaces that steps, by their index, move a link to. The tap is made of `tun`, where there is one.
pub(super) async fn act(
    request: &Request,
    links: &Links,
    numbers: HashMap<InterfaceName, u32>,
    targets: &HashMap<usize, Place>,
    tun: Option<OwnedFd>,
) -> Result<Answer, Failure> {
    let mut work = Work {
        links,
        numbers,
        tun,
        ours: HashSet::new(),
        taps: Vec::new(),
        seen: Vec::new(),
        undo: Vec::new(),
    };
    for (index, operation) in request.operations.iter().enumerate() {
        if let Err(error) = work.step(index, operation, targets.get(&index)).await {
            return Err(work.give_up(failure(index, operation, error.to_string())).await);
        }
    }
    if let Err((index, error)) = work.keep() {
        return Err(work
            .give_up(failure(index, &request.operations[index], error.to_string()))
            .await);
    }
    let passed = work
        .taps
        .into_iter()
        .filter(|created| created.end.has_descriptor());
    Ok(Answer {
        taps: passed.map(|created| created.tap.into_descriptor()).collect(),
        links: work.seen,
    })
}

struct Work<'a> {
    links: &'a Links,
    numbers: HashMap<InterfaceName, u32>,
    tun: Option<OwnedFd>,
    /// The numbers of the taps that this request created.
    ours: HashSet<u32>,
    taps: Vec<Created>,
    seen: Vec<LinkInfo>,
    undo: Vec<Undo<'a>>,
}

struct Created {
    tap: Tap,
    end: TapEnd,
    /// The index of the step that created it.
    step: usize,
}

impl<'a> Work<'a> {
    async fn step(
        &mut self,
        index: usize,
        operation: &Operation,
        target: Option<&'a Place>,
    ) -> io::Result<()> {
        match operation {
            Operation::CreateTap { name, end } => self.create(index, name, *end).await?,
            Operation::ChangeLink(change) => self.change(change, target).await?,
            Operation::AddAddress { link, prefix } => {
                let message = self.links.add_address(self.number(link)?, *prefix).await;
                let message = message.map_err(|error| match error.kind() {
                    io::ErrorKind::PermissionDenied if prefix.address().is_ipv6() => io::Error::other(
                        format!("{error}; is IPv6 off here (net.ipv6.conf.{link}.disable_ipv6)?"),
                    ),
                    _ => error,
                })?;
                self.undo
                    .push(Undo::Address(format!("address {prefix} of {link}"), message));
            }
            Operation::AddRoute(route) => {
                let index = route.link.as_ref().map(|link| self.number(link)).transpose()?;
                let message = self
                    .links
                    .add_route(route.destination, route.gateway, index)
                    .await?;
                self.undo
                    .push(Undo::Route(format!("route to {}", route.destination), message));
            }
            Operation::ImpairLink { link, impairment } => {
                let index = self.number(link)?;
                match Qdisc::of(impairment, self.links.info(index).await?.mtu_bytes) {
                    Some(qdisc) => self.links.set_qdisc(index, qdisc).await?,
                    None => self.links.delete_qdisc(index).await?,
                }
            }
            Operation::ImpairReceived { link, impairment } => self.impair_received(link, impairment).await?,
            Operation::InspectLink { link } => self.seen.push(self.links.info(self.number(link)?).await?),
            Operation::DeleteLink { link } => {
                let index = self.number(link)?;
                self.links.delete(index).await?;
                self.numbers.remove(link);
                if let Some(detour) = self.numbers.remove(&detour::name(index)) {
                    self.links.delete(detour).await?;
                }
            }
        }
        Ok(())
    }

    async fn create(&mut self, step: usize, name: &InterfaceName, end: TapEnd) -> io::Result<()> {
        let lent = self.tun.take();
        let is_lent = lent.is_some();
        let tap = match lent {
            Some(device) => Tap::create_of(device, name)?,
            None => Tap::create(name)?,
        };
        if let TapEnd::ByDeletion { owner_uid } = end {
            tap.set_owner(owner_uid)?;
        }
        self.taps.push(Created { tap, end, step });
        let index = self.links.index(name).await?;
        if is_lent {
            // Its descriptor is not the last one where the holder, or a process that the borrower is just starting, has one still.
            self.undo.push(Undo::Link(name.clone(), index));
        }
        self.ours.insert(index);
        self.numbers.insert(name.clone(), index);
        Ok(())
    }

    async fn change(&mut self, change: &LinkChange, target: Option<&'a Place>) -> io::Result<()> {
        let index = self.number(&change.link)?;
        let name = change.name.as_ref().unwrap_or(&change.link);
        if !self.ours.contains(&index) {
            // Before the change and not after it: a change that fails may have been carried out in part.
            let before = Before::of(self.links, &change.link, index).await?;
            self.undo.push(Undo::Change {
                before,
                name: name.clone(),
                target,
            });
        }
        if change.without_ipv6_link_local {
            // In a message of its own: of one message, the kernel raises the link first and looks at this last.
            self.links
                .set(links::with_mode(links::change(index), In6AddrGenMode::None))
                .await?;
        }
        let mut message = links::change(index);
        message = match target {
            Some(place) => place.as_target_of(message),
            None => message,
        };
        if let Some(name) = &change.name {
            message = message.name(name.as_str());
        }
        if let Some(mac) = change.mac {
            message = links::with_mac(message, mac);
        }
        if let Some(mtu) = change.mtu_bytes {
            message = message.mtu(mtu);
        }
        message = match change.up {
            Some(true) => message.up(),
            Some(false) => message.down(),
            None => message,
        };
        self.links.set(message).await?;
        self.numbers.remove(&change.link);
        if target.is_none() {
            self.numbers.insert(name.clone(), index);
        }
        Ok(())
    }

    async fn impair_received(&mut self, link: &InterfaceName, impairment: &Impairment) -> io::Result<()> {
        let index = self.number(link)?;
        let name = detour::name(index);
        let old = self.numbers.get(&name).copied();
        let Some(qdisc) = Qdisc::of(impairment, self.links.info(index).await?.mtu_bytes) else {
            if let Some(detour) = old {
                self.links.end_detour(index).await?;
                self.links.delete(detour).await?;
                self.numbers.remove(&name);
            }
            return Ok(());
        };
        let detour = match old {
            Some(detour) => detour,
            None => {
                let detour = self.links.add_ifb(&name).await?;
                self.undo.push(Undo::Link(name.clone(), detour));
                self.numbers.insert(name, detour);
                detour
            }
        };
        self.links.set_qdisc(detour, qdisc).await?;
        self.links.set(links::change(detour).up()).await?;
        // From here on frames go that way. A helper that was killed may have come so far and no further.
        self.links.detour(index, detour, old.is_some()).await
    }

    /// Tells the taps that are to stay so, or none of them; says which step failed.
    ///
    /// This comes last: whatever ends this process before, a SIGKILL too, ends the taps with it.
    fn keep(&self) -> Result<(), (usize, io::Error)> {
        let stays = |created: &&Created| created.end != TapEnd::WithDescriptor;
        let staying: Vec<&Created> = self.taps.iter().filter(stays).collect();
        for (count, created) in staying.iter().enumerate() {
            if let Err(error) = created.tap.set_persistent(true) {
                for earlier in &staying[..count] {
                    earlier
                        .tap
                        .set_persistent(false)
                        .map_err(|error| (earlier.step, error))?;
                }
                return Err((created.step, error));
            }
        }
        Ok(())
    }

    /// Undoes everything, the latest first, and completes the report of what went wrong.
    async fn give_up(mut self, mut failure: Failure) -> Failure {
        while let Some(undo) = self.undo.pop() {
            if let Err(left) = undo.undo(self.links).await {
                failure.left.push(left);
            }
        }
        failure
    }

    fn number(&self, link: &InterfaceName) -> io::Result<u32> {
        let number = self.numbers.get(link).copied();
        number.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no link {link}")))
    }
}
