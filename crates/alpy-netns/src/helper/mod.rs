// SPDX-License-Identifier: GPL-3.0-or-later
//! What the helper executable does; with the feature `helper`.
//!
//! Four jobs: [`serve`] works off requests, [`once`] a single one without a socket, [`hold`] keeps a node's namespaces alive, [`guard`]
//! removes what a process that was killed has left.

mod act;
mod carry_out;
mod detour;
mod guard;
mod hold;
mod links;
mod once;
mod places;
mod qdisc;
mod serve;
mod tap;
mod undo;

pub use guard::guard;
pub use hold::hold;
pub use once::once;
pub use serve::serve;
