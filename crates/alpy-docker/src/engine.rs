// SPDX-License-Identifier: GPL-3.0-or-later
//! The engine: found, asked, swept.

use std::time::Duration;

use crate::Result;

/// A container engine: Docker, or one that speaks its language. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {}

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineInfo {
    /// Its address, such as `unix:///var/run/docker.sock`.
    pub address: String,
    /// What named the address: "DOCKER_HOST", "Docker context NAME", "usual socket" or "the caller".
    pub found_by: String,
    /// Its version, such as `20.10.24`.
    pub version: String,
    /// The newest API version that it speaks, such as `1.41`.
    pub api_version: String,
    /// It runs without root's rights.
    pub rootless: bool,
    /// It is Podman: then [`Container::stdin`](crate::Container::stdin) does not end the container with this process.
    pub podman: bool,
}

impl Engine {
    /// Finds the engine as the Docker CLI does: `DOCKER_HOST`, else the context that `DOCKER_CONTEXT` or
    /// `~/.docker/config.json` names, else the usual sockets, Docker's before Podman's, the first that answers.
    ///
    /// # Errors
    /// [`Unreachable`](crate::Error::Unreachable) and [`Denied`](crate::Error::Denied) list what was tried and why each failed.
    pub async fn connect() -> Result<Self> {
        unimplemented!()
    }

    /// The engine at an address such as `unix:///run/user/1000/docker.sock`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub async fn connect_to(_address: &str) -> Result<Self> {
        unimplemented!()
    }

    /// Sets how long one request may take: 30 seconds if not set.
    pub fn request_limit(self, _limit: Duration) -> Self {
        unimplemented!()
    }

    /// What the engine said of itself when it was connected.
    pub fn info(&self) -> &EngineInfo {
        unimplemented!()
    }

    /// The ids of the containers, running or not, that carry a label: `name` or `name=value`.
    pub async fn labelled(&self, _label: &str) -> Result<Vec<String>> {
        unimplemented!()
    }

    /// Kills and removes all containers that carry a label: `name` or `name=value`. Returns their ids.
    pub async fn remove_labelled(&self, _label: &str) -> Result<Vec<String>> {
        unimplemented!()
    }

    /// Kills and removes a container by name or id. One that is not there is fine.
    pub async fn remove(&self, _container: &str) -> Result<()> {
        unimplemented!()
    }

    /// Waits until a container, named by name or id and started by whomever, is running. No polling.
    pub async fn wait_running(&self, _container: &str, _within: Duration) -> Result<()> {
        unimplemented!()
    }
}
