// SPDX-License-Identifier: GPL-3.0-or-later
//! Test network virtual appliances: a QEMU machine whose NICs are taps in containers' namespaces.
mod error;
pub mod evidence;
pub mod logging;
mod signals;
mod step;
pub use error::{Error, Result};
#[doc(hidden)]
pub mod __private {
    pub use crate::step::run_step;
    pub use tracing;
}
