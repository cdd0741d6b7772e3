// SPDX-License-Identifier: GPL-3.0-or-later
//! What the fuzzer's bytes mean. What must hold is in the crates themselves, in the module `fuzzing` of each.
//!
//! A target takes a few choices from the front of the input and leaves the rest to the crate, as it is or as changes to
//! something valid. So no corpus is needed to begin with.

mod capture;
mod input;
mod json;

pub use capture::capture;
pub use input::Input;
pub use json::{edited, value};
