// SPDX-License-Identifier: GPL-3.0-or-later
//! Finds the address of the container engine by the rules of the Docker CLI.
//!
//! The library, its command line and the tasks of its workspace all find the engine with this crate, so they agree on it. The crate
//! has no runtime and no client of its own: a program that wants to talk to the engine takes `alpy-docker`.
//!
//! ```
//! match alpy_engine_address::find() {
//!     Ok(engine) => println!("{} ({})", engine.address(), engine.found_by),
//!     Err(error) => println!("{error}"),
//! }
//! ```
//!
//! - [`find`]: start here. It returns the first engine that answers.
//! - [`candidates`]: the sockets that `find` tries, for a caller with a client of its own.
//! - [`Candidate`], [`FoundBy`]: a socket, and what named it.
//! - [`get`]: one blocking HTTP request.
//! - [`Error`], [`Attempt`], [`Reason`]: why there is no engine.

mod candidate;
mod context;
mod error;
mod request;

use std::env;

pub use candidate::{Candidate, FoundBy, candidate, candidates_in};
pub use error::{Attempt, Error, Reason, Result};
pub use request::{LIMIT, get};

/// The sockets to try, in order, as the environment of this process has it; see [`candidates_in`].
///
/// # Errors
/// As [`candidates_in`].
pub fn candidates() -> Result<Vec<Candidate>> {
    candidates_in(|name| env::var_os(name))
}

/// Finds the engine as the Docker CLI does: `DOCKER_HOST`, else the context that `DOCKER_CONTEXT` or `~/.docker/config.json`
/// names, else the usual sockets, Docker's before Podman's. Returns the first engine that answers a ping.
///
/// Blocks, at most [`LIMIT`] for each socket.
///
/// # Errors
/// [`Error::Unreachable`] and [`Error::Denied`] list what was tried; otherwise as [`candidates_in`].
pub fn find() -> Result<Candidate> {
    let mut tried = Vec::new();
    for candidate in candidates()? {
        match get(&candidate.socket, "/_ping") {
            Ok(_) => return Ok(candidate),
            Err(reason) => tried.push(candidate.attempt(reason)),
        }
    }
    Err(Error::of(tried))
}
