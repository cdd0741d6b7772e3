// SPDX-License-Identifier: GPL-3.0-or-later
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use super::act::act;
use super::links::Links;
use super::places::{Place, within};
use crate::loan::Loan;
use crate::{Answer, Error, Failure, InterfaceName, LinkChange, Namespace, Operation, Request};

/// Does what a request says, or nothing.
pub(super) fn carry_out(request: &Request, mut passed: Vec<OwnedFd>) -> Result<Answer, Failure> {
    match request.check() {
        Ok(()) => {}
        Err(Error::Request {
            step,
            operation,
            reason,
        }) => {
            return Err(Failure {
                step,
                operation,
                reason,
                left: Vec::new(),
            });
        }
        Err(error) => return Err(whole(&error.to_string())),
    }
    let loan = request.lent.then(|| Loan::received(std::mem::take(&mut passed)));
    let loan = loan
        .transpose()
        .map_err(|count| whole(&format!("{count} descriptors came for a loan")))?;
    let (netlink, tun) = loan.map(Loan::into_parts).unzip();
    let find = |namespace: &Namespace| Place::find(namespace, &passed);
    let place = request.namespace.as_ref().map(find).transpose();
    let place = place.map_err(|reason| whole(&reason))?;
    let targets = targets(request, find)?;
    let there = names_there(&targets);
    let outcome = within(place.as_ref(), || {
        Links::with(netlink, async |links| {
            let numbers = links
                .numbers()
                .await
                .map_err(|error| format!("listing the links: {error}"))?;
            // The inner result is the request's, the outer one is that of getting so far.
            Ok(match look(request, numbers.keys(), &targets, there) {
                Ok(()) => act(request, &links, numbers, &targets, tun).await,
                Err(failure) => Err(failure),
            })
        })
    });
    outcome.unwrap_or_else(|reason| Err(whole(&reason)))
}

/// The namespace that each step moves a link to, all found before the first step.
fn targets(
    request: &Request,
    find: impl Fn(&Namespace) -> Result<Place, String>,
) -> Result<HashMap<usize, Place>, Failure> {
    let mut targets = HashMap::new();
    for (index, operation) in request.operations.iter().enumerate() {
        if let Operation::ChangeLink(LinkChange {
            namespace: Some(namespace),
            ..
        }) = operation
        {
            targets.insert(
                index,
                find(namespace).map_err(|reason| failure(index, operation, reason))?,
            );
        }
    }
    Ok(targets)
}

/// The names that are taken in each namespace that a link is moved to, by the namespace's number.
///
/// That needs more privilege than the moves do. Without, such a namespace is left out, and the kernel alone will tell.
fn names_there(targets: &HashMap<usize, Place>) -> HashMap<u64, HashSet<InterfaceName>> {
    let mut there = HashMap::new();
    for place in targets.values() {
        let numbers = within(Some(place), || {
            Links::with(None, async |links| {
                links.numbers().await.map_err(|error| error.to_string())
            })
        });
        if let (Some(number), Ok(numbers)) = (place.number(), numbers) {
            there.insert(number, numbers.into_keys().collect());
        }
    }
    there
}

/// Follows the names through all steps, so that one that is not there, or taken, is found before the first step.
fn look<'a>(
    request: &'a Request,
    links: impl Iterator<Item = &'a InterfaceName>,
    targets: &HashMap<usize, Place>,
    mut there: HashMap<u64, HashSet<InterfaceName>>,
) -> Result<(), Failure> {
    let mut names: HashSet<&InterfaceName> = links.collect();
    for (index, operation) in request.operations.iter().enumerate() {
        let refuse = |reason: String| Err(failure(index, operation, reason));
        let needed = match operation {
            Operation::CreateTap { .. } => None,
            Operation::ChangeLink(change) => Some(&change.link),
            Operation::AddRoute(route) => route.link.as_ref(),
            Operation::AddAddress { link, .. }
            | Operation::ImpairLink { link, .. }
            | Operation::ImpairReceived { link, .. }
            | Operation::InspectLink { link }
            | Operation::DeleteLink { link } => Some(link),
        };
        if let Some(link) = needed.filter(|link| !names.contains(link)) {
            return refuse(format!("there is no link {link}"));
        }
        let (gone, new) = match operation {
            Operation::CreateTap { name, .. } => (None, Some(name)),
            Operation::DeleteLink { link } => (Some(link), None),
            Operation::ChangeLink(change) if change.namespace.is_some() => (Some(&change.link), None),
            Operation::ChangeLink(change) if change.name.is_some() => {
                (Some(&change.link), change.name.as_ref())
            }
            _ => (None, None),
        };
        if let Some(gone) = gone {
            names.remove(gone);
        }
        if let Some(new) = new.filter(|new| !names.insert(new)) {
            return refuse(format!("there is a link {new} already"));
        }
        if let Operation::ChangeLink(change) = operation {
            let name = change.name.as_ref().unwrap_or(&change.link);
            let number = targets.get(&index).and_then(Place::number);
            if let Some(names) = number.and_then(|number| there.get_mut(&number)) {
                if !names.insert(name.clone()) {
                    return refuse(format!("there is a link {name} already in that namespace"));
                }
            }
        }
    }
    Ok(())
}

/// What is wrong with one step, by its index from 0.
pub(super) fn failure(index: usize, operation: &Operation, reason: String) -> Failure {
    Failure {
        step: index + 1,
        operation: operation.to_string(),
        reason,
        left: Vec::new(),
    }
}

/// What is wrong with the request as a whole.
fn whole(reason: &str) -> Failure {
    Failure {
        step: 0,
        operation: "prepare".to_owned(),
        reason: reason.to_owned(),
        left: Vec::new(),
    }
}
