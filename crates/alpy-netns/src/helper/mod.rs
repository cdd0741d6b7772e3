// SPDX-License-Identifier: GPL-3.0-or-later
//! What the helper executable does; with the feature `helper`.
//!
//! Two jobs: [`serve`] works off requests, [`hold`] keeps a node's namespaces alive.

mod act;
mod carry_out;
mod hold;
mod links;
mod places;
mod serve;
mod tap;
mod undo;

pub use hold::hold;
pub use serve::serve;
