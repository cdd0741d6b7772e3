// SPDX-License-Identifier: GPL-3.0-or-later
//! Tap devices and network namespaces through rtnetlink.
mod error;
mod listener;
mod mac;
mod name;
mod prefix;
mod reply;
mod request;
mod session;
mod wire;

#[cfg(feature = "embed")]
mod embedded;
#[cfg(feature = "helper")]
pub mod helper;

#[cfg(feature = "embed")]
pub use embedded::{HELPER, HELPER_HASH, HELPER_PATH, image_tar};
pub use error::{Error, Result};
pub use listener::Listener;
pub use mac::MacAddr;
pub use name::InterfaceName;
pub use prefix::IpPrefix;
pub use reply::{Answer, Counters, Failure, LinkInfo, Reply};
pub use request::{LinkChange, Namespace, Operation, Request, Route};
pub use session::Session;
