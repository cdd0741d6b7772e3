// SPDX-License-Identifier: GPL-3.0-or-later
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Impairment, InterfaceName, IpPrefix, LinkChange, Result, Route};

/// What the helper is to do, in order, in one network namespace: everything or nothing.
///
/// The helper looks first whether all of it can be done (links exist or are created by an earlier step, names are free,
/// namespaces are there) and refuses without having touched anything. Should the kernel refuse a step after all, what the
/// earlier steps did is undone. What the kernel itself drops when a link goes down (routes, IPv6 addresses) does not come back.
///
/// ```
/// use alpy_netns::{InterfaceName, LinkChange, Request};
///
/// let eth0: InterfaceName = "eth0".parse()?;
/// let request = Request::new()
///     .tap(eth0.clone())
///     .link(LinkChange::of(eth0.clone()).without_ipv6_link_local().up())
///     .address(eth0, "192.168.0.1/24".parse()?)
///     .default_route("192.168.0.2".parse()?);
/// request.check()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub(crate) namespace: Option<Namespace>,
    /// Whether the descriptors that come along are a loan of the namespace to work in.
    #[serde(default)]
    pub(crate) lent: bool,
    pub(crate) operations: Vec<Operation>,
}

/// A network namespace, as the helper sees it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Namespace {
    /// The namespace that a file stands for: `/run/netns/NAME`, or what Docker calls `NetworkSettings.SandboxKey`.
    Path(PathBuf),
    /// The namespace of a process, numbered as in the helper's own pid namespace.
    Pid(u32),
    /// The n-th, from 0, of the descriptors that [`Session::run_passing`](crate::Session::run_passing) sends along.
    Passed(usize),
}

/// One step of a [`Request`]; its methods of the same names say more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// [`Request::tap`], [`Request::lasting_tap`] or [`Request::persistent_tap`].
    CreateTap {
        /// The tap's name.
        name: InterfaceName,
        /// When it ends.
        end: TapEnd,
    },
    /// [`Request::link`].
    ChangeLink(LinkChange),
    /// [`Request::address`].
    AddAddress {
        /// The link that gets the address.
        link: InterfaceName,
        /// The address and its prefix.
        prefix: IpPrefix,
    },
    /// [`Request::route`].
    AddRoute(Route),
    /// [`Request::impair`].
    ImpairLink {
        /// The link.
        link: InterfaceName,
        /// What becomes of the frames that leave through it.
        impairment: Impairment,
    },
    /// [`Request::impair_received`].
    ImpairReceived {
        /// The link.
        link: InterfaceName,
        /// What becomes of the frames that come in through it.
        impairment: Impairment,
    },
    /// [`Request::inspect`].
    InspectLink {
        /// The link to look at.
        link: InterfaceName,
    },
    /// [`Request::delete`].
    DeleteLink {
        /// The link to delete.
        link: InterfaceName,
    },
}

/// When a tap ends. Whatever this says, it ends with its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TapEnd {
    /// With the last of its descriptors: [`Request::tap`].
    WithDescriptor,
    /// With its namespace: [`Request::lasting_tap`].
    WithNamespace,
    /// When it is deleted, and the user with this number may open it by its name: [`Request::persistent_tap`].
    ByDeletion {
        /// The number of the user.
        owner_uid: u32,
    },
}

impl TapEnd {
    /// Whether a descriptor of it comes back.
    pub(crate) fn has_descriptor(self) -> bool {
        !matches!(self, Self::ByDeletion { .. })
    }
}

impl Request {
    /// The most taps in one request. The kernel passes at most 253 descriptors at once (`SCM_MAX_FD`, unix(7)).
    pub const MAX_TAPS: usize = 253;

    /// A request that asks for nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has everything done in this namespace instead of the helper's own.
    ///
    /// The helper then needs `CAP_SYS_ADMIN` too (setns(2)), and for a namespace by process `CAP_SYS_PTRACE`.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Creates a tap device, whose descriptor comes back in [`Answer::taps`](crate::Answer::taps).
    ///
    /// The tap lives as long as the descriptor or any copy of it, and no longer than its namespace. A frame is read and written
    /// bare, with nothing before it (`IFF_NO_PI`, no `IFF_VNET_HDR`).
    #[must_use]
    pub fn tap(self, name: InterfaceName) -> Self {
        self.step(Operation::CreateTap {
            name,
            end: TapEnd::WithDescriptor,
        })
    }

    /// Creates a tap device that lasts as long as its namespace, or until it is deleted. Its descriptor comes back as that of a
    /// [`tap`](Self::tap).
    ///
    /// When the last copy of that is closed, the tap loses its carrier, as when a cable is pulled. It costs nothing then: to end a
    /// tap takes the kernel some 20 ms, one after the other, and all of a namespace together no longer.
    #[must_use]
    pub fn lasting_tap(self, name: InterfaceName) -> Self {
        self.step(Operation::CreateTap {
            name,
            end: TapEnd::WithNamespace,
        })
    }

    /// Creates a tap device that stays until it is deleted, and that the user with this number may open by its name.
    #[must_use]
    pub fn persistent_tap(self, name: InterfaceName, owner_uid: u32) -> Self {
        self.step(Operation::CreateTap {
            name,
            end: TapEnd::ByDeletion { owner_uid },
        })
    }

    /// Changes the settings of a link.
    #[must_use]
    pub fn link(self, change: LinkChange) -> Self {
        self.step(Operation::ChangeLink(change))
    }

    /// Adds an address to a link. One of IPv6 is usable at once: it is not looked for on the wire first (`IFA_F_NODAD`).
    #[must_use]
    pub fn address(self, link: InterfaceName, prefix: IpPrefix) -> Self {
        self.step(Operation::AddAddress { link, prefix })
    }

    /// Adds a route.
    #[must_use]
    pub fn route(self, route: Route) -> Self {
        self.step(Operation::AddRoute(route))
    }

    /// Adds the route to everywhere else, through a gateway.
    #[must_use]
    pub fn default_route(self, gateway: IpAddr) -> Self {
        self.route(Route::default_via(gateway))
    }

    /// Reads the state and the counters of a link, which come back in [`Answer::links`](crate::Answer::links).
    #[must_use]
    pub fn inspect(self, link: InterfaceName) -> Self {
        self.step(Operation::InspectLink { link })
    }

    /// Deletes a link. This cannot be undone, so that only further deletions may follow.
    #[must_use]
    pub fn delete(self, link: InterfaceName) -> Self {
        self.step(Operation::DeleteLink { link })
    }

    /// The steps in their order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Looks at what can be known without a kernel; the helper does so too.
    ///
    /// # Errors
    /// [`Error::Request`], which names the step and the value: an MTU that no tap can have, a route whose destination has bits
    /// after its prefix or whose gateway is of the other IP version, a step after a deletion or an impairment, more taps than can be passed, a
    /// namespace of no process or with a path that is not UTF-8. The namespace of the whole request counts as step 0.
    pub fn check(&self) -> Result<()> {
        if let Some(reason) = self.namespace.as_ref().and_then(Namespace::fault) {
            return Err(Error::Request {
                step: 0,
                operation: "enter the namespace".to_owned(),
                reason,
            });
        }
        if self.lent && self.namespace.is_some() {
            return Err(Error::Request {
                step: 0,
                operation: "enter the namespace".to_owned(),
                reason: "it is to be a lent one already".to_owned(),
            });
        }
        let most = if self.lent { 1 } else { Self::MAX_TAPS };
        let mut taps = 0;
        let mut for_good = false;
        for (index, operation) in self.operations.iter().enumerate() {
            let fault = |reason: String| {
                Err(Error::Request {
                    step: index + 1,
                    operation: operation.to_string(),
                    reason,
                })
            };
            let is_for_good = matches!(
                operation,
                Operation::DeleteLink { .. }
                    | Operation::ImpairLink { .. }
                    | Operation::ImpairReceived { .. }
            );
            if for_good && !is_for_good {
                return fault(
                    "it comes after a deletion or an impairment, which cannot be undone".to_owned(),
                );
            }
            for_good = is_for_good;
            match operation {
                Operation::CreateTap { .. } => {
                    taps += 1;
                    if taps > most {
                        return fault(format!("more taps than {most} in one request"));
                    }
                }
                Operation::ChangeLink(change) => {
                    if let Some(reason) = change.fault() {
                        return fault(reason);
                    }
                }
                Operation::AddRoute(route) => {
                    if let Some(reason) = route.fault() {
                        return fault(reason);
                    }
                }
                Operation::ImpairLink { impairment, .. } | Operation::ImpairReceived { impairment, .. } => {
                    if let Some(reason) = impairment.fault() {
                        return fault(reason);
                    }
                }
                Operation::DeleteLink { .. }
                | Operation::AddAddress { .. }
                | Operation::InspectLink { .. } => {}
            }
        }
        Ok(())
    }

    /// Impairs what leaves through a link, in place of any impairment that it has; [`Impairment::new`] ends them all.
    ///
    /// It cannot be undone, so nothing but deletions and further impairments may come behind it.
    #[must_use]
    pub fn impair(self, link: InterfaceName, impairment: Impairment) -> Self {
        self.step(Operation::ImpairLink { link, impairment })
    }

    /// Impairs what comes in through a link, as [`impair`](Self::impair) does what leaves; neither touches the other.
    ///
    /// Linux keeps no queue for what comes in. So the frames are sent through a link of the kind `ifb` on their way, whose name is `ifb-`
    /// and the number of the link, and which has the impairment. The kernel needs `ifb`, `sch_ingress`, `cls_matchall` and `act_mirred`
    /// beside what the impairment itself needs. All that is gone when the impairment ends, or the link.
    ///
    /// The link has counted a frame, and packet sockets have seen it, before it is impaired.
    #[must_use]
    pub fn impair_received(self, link: InterfaceName, impairment: Impairment) -> Self {
        self.step(Operation::ImpairReceived { link, impairment })
    }

    fn step(mut self, operation: Operation) -> Self {
        self.operations.push(operation);
        self
    }
}

impl Namespace {
    pub(crate) fn fault(&self) -> Option<String> {
        match self {
            Self::Path(path) if path.to_str().is_none() => {
                Some(format!("the path {path:?} is not UTF-8, as a request is"))
            }
            Self::Pid(pid) if i32::try_from(*pid).is_err() || *pid == 0 => {
                Some(format!("{pid} is no process"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Pid(pid) => write!(f, "of process {pid}"),
            Self::Passed(index) => write!(f, "passed as number {index}"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateTap {
                name,
                end: TapEnd::ByDeletion { owner_uid },
            } => write!(f, "create tap {name} of user {owner_uid}"),
            Self::CreateTap { name, .. } => write!(f, "create tap {name}"),
            Self::ChangeLink(change) => write!(f, "{change}"),
            Self::AddAddress { link, prefix } => write!(f, "add address {prefix} to {link}"),
            Self::AddRoute(route) => write!(f, "{route}"),
            Self::ImpairLink { link, impairment } => write!(f, "impair {link}: {impairment}"),
            Self::ImpairReceived { link, impairment } => {
                write!(f, "impair what comes in through {link}: {impairment}")
            }
            Self::InspectLink { link } => write!(f, "inspect {link}"),
            Self::DeleteLink { link } => write!(f, "delete {link}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::time::Duration;

    use super::*;

    fn name(name: &str) -> InterfaceName {
        name.parse().unwrap()
    }

    fn prefix(prefix: &str) -> IpPrefix {
        prefix.parse().unwrap()
    }

    #[test]
    fn comes_over_the_wire_as_it_was() {
        let eth0 = name("eth0");
        let change = LinkChange::of(eth0.clone())
            .name(name("eth1"))
            .namespace(Namespace::Path("/run/netns/a b".into()))
            .mac("52:54:00:00:00:01".parse().unwrap())
            .mtu_bytes(9000)
            .up();
        let request = Request::new()
            .namespace(Namespace::Pid(7))
            .tap(eth0.clone())
            .lasting_tap(name("eth2"))
            .persistent_tap(name("tap0"), 1001)
            .link(change)
            .link(
                LinkChange::of(name("tap0"))
                    .namespace(Namespace::Passed(2))
                    .down(),
            )
            .link(LinkChange::of(eth0.clone()).without_ipv6_link_local())
            .address(eth0.clone(), prefix("fd00::1/64"))
            .route(
                Route::to(prefix("10.0.0.0/8"))
                    .via("192.0.2.1".parse().unwrap())
                    .link(eth0.clone()),
            )
            .default_route("fd00::2".parse().unwrap())
            .inspect(eth0.clone())
            .impair(eth0.clone(), Impairment::new().loss(0.5).rate_bits(1_000_000))
            .impair_received(eth0.clone(), Impairment::new().delay(Duration::from_millis(100)))
            .delete(eth0);
        request.check().unwrap();
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
    }

    #[test]
    fn what_can_never_be_right_is_refused_with_its_step_and_value() {
        let eth0 = name("eth0");
        let no_text = || Namespace::Path(OsStr::from_bytes(b"/run/\xff").into());
        let change = || LinkChange::of(name("eth0"));
        let many =
            (0..=Request::MAX_TAPS).fold(Request::new(), |request, n| request.tap(name(&format!("t{n}"))));
        for (request, step, value) in [
            (Request::new().link(change().mtu_bytes(67)), 1, "67 bytes"),
            (Request::new().link(change().mtu_bytes(65522)), 1, "65522 bytes"),
            (
                Request::new().link(change().namespace(Namespace::Pid(0))),
                1,
                "0 is no process",
            ),
            (
                Request::new().link(change().namespace(Namespace::Pid(u32::MAX))),
                1,
                "4294967295 is no process",
            ),
            (Request::new().namespace(Namespace::Pid(0)), 0, "0 is no process"),
            (
                Request::new().namespace(no_text()),
                0,
                r#""/run/\xFF" is not UTF-8"#,
            ),
            (
                Request::new().link(change().namespace(no_text())),
                1,
                r#""/run/\xFF" is not UTF-8"#,
            ),
            (
                Request::new().link(change().namespace(Namespace::Pid(1)).without_ipv6_link_local()),
                1,
                "eth0",
            ),
            (
                Request::new().route(Route::to(prefix("10.0.0.1/8")).link(eth0.clone())),
                1,
                "the network is 10.0.0.0/8",
            ),
            (
                Request::new().route(Route::to(prefix("10.0.0.0/8"))),
                1,
                "neither a gateway nor a link",
            ),
            (
                Request::new().route(Route::to(prefix("::/0")).via("10.0.0.1".parse().unwrap())),
                1,
                "10.0.0.1 is of another",
            ),
            (
                Request::new().delete(eth0.clone()).inspect(eth0),
                2,
                "after a deletion",
            ),
            (
                Request::new().impair(name("eth0"), Impairment::new().loss(2.0)),
                1,
                "the loss is no share",
            ),
            (
                Request::new().impair_received(name("eth0"), Impairment::new().rate_bits(1)),
                1,
                "1 bits per second",
            ),
            (
                Request::new()
                    .impair_received(name("eth0"), Impairment::new())
                    .inspect(name("eth0")),
                2,
                "after a deletion or an impairment",
            ),
            (many, Request::MAX_TAPS + 1, "more taps than 253"),
        ] {
            match request.check() {
                Err(error @ Error::Request { step: found, .. }) => {
                    assert_eq!(found, step, "{error}");
                    assert!(error.to_string().contains(value), "{error}");
                }
                other => panic!("{value}: {other:?}"),
            }
        }
    }
}
