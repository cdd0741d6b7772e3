// SPDX-License-Identifier: GPL-3.0-or-later
//! Looks for an engine where engines usually listen.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Engine, http};

/// The first engine that answers: the one that `DOCKER_HOST` names, that of the Docker context, those on the usual
/// sockets of Docker and Podman. alpy passes descriptors through bind mounts, so only engines of this machine count.
pub fn discover() -> Option<Engine> {
    let named = env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    let engine = named.as_deref().and_then(answering);
    if let (Some(host), None) = (&named, &engine) {
        let why = if socket_of(host).is_some() {
            "no engine answers there"
        } else {
            "it is not a unix socket"
        };
        eprintln!("xtask: DOCKER_HOST={host} is of no use: {why}");
    }
    engine.or_else(|| usual_hosts().iter().find_map(|host| answering(host)))
}

/// The engine of this address, and no other.
pub fn at(host: &str) -> Result<Engine> {
    answering(host).with_context(|| format!("no engine answers at {host}"))
}

/// The path in an address such as `unix:///var/run/docker.sock`.
pub fn socket_of(host: &str) -> Option<&Path> {
    host.strip_prefix("unix://").map(Path::new)
}

fn answering(host: &str) -> Option<Engine> {
    let socket = socket_of(host)?;
    if !http::ping(socket) {
        return None;
    }
    // An entry of `SecurityOptions` in Docker, a field in Podman.
    let says = ["name=rootless", r#""Rootless":true"#];
    let rootless = http::get(socket, "/info").is_some_and(|info| says.iter().any(|say| info.contains(say)));
    Some(Engine {
        host: host.to_owned(),
        rootless,
        lease: None,
    })
}

fn usual_hosts() -> Vec<String> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let mut hosts: Vec<String> = home
        .iter()
        .filter_map(|home| context_host(&home.join(".docker")))
        .collect();
    let mut sockets = vec![PathBuf::from("/var/run/docker.sock")];
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    sockets.extend(
        runtime
            .iter()
            .flat_map(|folder| ["docker.sock", "podman/podman.sock"].map(|s| folder.join(s))),
    );
    sockets.push("/run/podman/podman.sock".into());
    hosts.extend(
        sockets
            .iter()
            .map(|socket| format!("unix://{}", socket.display())),
    );
    hosts
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Context {
    name: String,
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: Endpoint,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    host: String,
}

/// The address in the context that the user has chosen with `docker context use` or `DOCKER_CONTEXT`.
fn context_host(folder: &Path) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        current_context: Option<String>,
    }
    let name = env::var("DOCKER_CONTEXT").ok().or_else(|| {
        let config: Config = serde_json::from_slice(&fs::read(folder.join("config.json")).ok()?).ok()?;
        config.current_context
    })?;
    context_named(&folder.join("contexts/meta"), &name)
}

/// Each context has a folder, named by a hash of its name.
fn context_named(folder: &Path, name: &str) -> Option<String> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let context: Context =
            serde_json::from_slice(&fs::read(entry.path().join("meta.json")).ok()?).ok()?;
        (context.name == name).then_some(context.endpoints.docker.host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_context_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            let meta = folder.path().join(format!("hash-of-{name}"));
            fs::create_dir(&meta).unwrap();
            let text = format!(
                r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"unix:///{name}.sock","SkipTLSVerify":false}}}}}}"#
            );
            fs::write(meta.join("meta.json"), text).unwrap();
        }
        fs::create_dir(folder.path().join("empty")).unwrap();
        assert_eq!(context_named(folder.path(), "two").unwrap(), "unix:///two.sock");
        assert_eq!(context_named(folder.path(), "default"), None);
    }

    #[test]
    fn an_engine_of_another_machine_has_no_socket() {
        assert_eq!(socket_of("unix:///run/s").unwrap(), Path::new("/run/s"));
        assert_eq!(socket_of("tcp://10.0.0.1:2375"), None);
    }
}
