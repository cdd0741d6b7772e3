// SPDX-License-Identifier: GPL-3.0-or-later
//! The engine that runs already.

use std::env;

use alpy_engine_address::{self as address, Candidate, Error, FoundBy};
use anyhow::Result;

use super::Engine;
use crate::stop;

/// The engine that alpy itself would find, or `None` if none answers at the usual sockets.
///
/// # Errors
/// The engine that a person chose, by `DOCKER_HOST` or a Docker context, is of no use.
pub fn discover() -> Result<Option<Engine>> {
    match address::find() {
        Ok(found) => Ok(Some(engine(&found))),
        Err(error) => match refusal(&error) {
            Some(refusal) => Err(stop::before_start(refusal)),
            None => Ok(None),
        },
    }
}

/// The engine of this address, and no other.
pub fn at(host: &str) -> Result<Engine> {
    let candidate = address::candidate(FoundBy::DockerHost, host)?;
    match address::get(&candidate.socket, "/_ping") {
        Ok(_) => Ok(engine(&candidate)),
        Err(reason) => Err(Error::of(vec![candidate.attempt(reason)]).into()),
    }
}

/// Whether `DOCKER_HOST` names an engine.
pub fn is_named() -> bool {
    env::var_os("DOCKER_HOST").is_some_and(|host| !host.is_empty())
}

/// What to say if no private engine may take the place of the one that was looked for.
fn refusal(error: &Error) -> Option<String> {
    const REMEDY: &str = "where no engine is chosen and none answers, xtask starts a private one";
    error.is_choice().then(|| format!("{error}; {REMEDY}"))
}

fn engine(found: &Candidate) -> Engine {
    // An entry of `SecurityOptions` in Docker, a field in Podman.
    let says = ["name=rootless", r#""Rootless":true"#];
    let info = address::get(&found.socket, "/info");
    Engine {
        host: found.address(),
        rootless: info.is_ok_and(|info| says.iter().any(|say| info.contains(say))),
        lease: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alpy_engine_address::{Reason, candidates_in};

    #[test]
    fn a_private_engine_takes_the_place_of_none_that_was_chosen() {
        let tried = |variable: &str, value: &str| {
            let candidates = candidates_in(|name| (name == variable).then(|| value.into()))?;
            let tried = candidates
                .into_iter()
                .map(|candidate| candidate.attempt(Reason::NoSocket));
            Err::<(), _>(Error::of(tried.collect()))
        };
        for (variable, value) in [
            ("DOCKER_HOST", "unix:///no/such/socket"),
            ("DOCKER_HOST", "tcp://10.0.0.1:2375"),
            ("DOCKER_CONTEXT", "no-such-context"),
        ] {
            let refusal = refusal(&tried(variable, value).unwrap_err()).unwrap();
            assert!(refusal.contains(value) && refusal.contains("remedy"), "{refusal}");
        }
        assert_eq!(refusal(&tried("XDG_RUNTIME_DIR", "/no/such").unwrap_err()), None);
    }
}
