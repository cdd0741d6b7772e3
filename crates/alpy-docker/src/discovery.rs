// SPDX-License-Identifier: GPL-3.0-or-later
//! Where an engine may be listening, by the rules of the Docker CLI.
//!
//! The environment and the home folder come in as values, so that the rules are tested without touching the process's own.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result};

/// A place where an engine was looked for in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The address, such as `unix:///var/run/docker.sock`.
    pub address: String,
    /// What named the address, as in [`EngineInfo::found_by`](crate::EngineInfo::found_by).
    pub found_by: String,
    /// Why it is of no use.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.address, self.found_by, self.reason)
    }
}

/// A socket to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) socket: PathBuf,
    pub(crate) found_by: String,
}

/// The sockets to try, in order. What a person chose (`DOCKER_HOST`, a context) is final: nothing else is then tried, so that
/// no test runs on another engine than the one meant.
pub(crate) fn candidates(env: impl Fn(&str) -> Option<String>) -> Result<Vec<Candidate>> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(address) = env("DOCKER_HOST") {
        return Ok(vec![candidate("DOCKER_HOST", &address)?]);
    }
    let config = env("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| Path::new(&home).join(".docker")));
    let context = match (env("DOCKER_CONTEXT"), &config) {
        (Some(name), _) => Some(name),
        (None, Some(config)) => current_context(config)?,
        (None, None) => None,
    };
    if let Some(name) = context.filter(|name| name != "default") {
        let config = config.ok_or_else(|| Error::BadContext {
            context: name.clone(),
            place: "$HOME/.docker".into(),
            reason: "HOME is not set".to_owned(),
        })?;
        let address = context_address(&config, &name)?;
        return Ok(vec![candidate(&format!("Docker context {name}"), &address)?]);
    }
    let private = env("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(format!("/run/user/{}", own_uid()?).into()));
    let sockets = [
        Some(PathBuf::from("/var/run/docker.sock")),
        private.as_ref().map(|dir| dir.join("docker.sock")),
        private.as_ref().map(|dir| dir.join("podman/podman.sock")),
        Some(PathBuf::from("/run/podman/podman.sock")),
    ];
    let found_by = "usual socket";
    let candidates = sockets.into_iter().flatten().map(|socket| Candidate {
        socket,
        found_by: found_by.into(),
    });
    Ok(candidates.collect())
}

/// The socket that an address names.
pub(crate) fn candidate(found_by: &str, address: &str) -> Result<Candidate> {
    match address.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(Candidate {
            socket: path.into(),
            found_by: found_by.to_owned(),
        }),
        _ => Err(Error::UnsupportedAddress {
            origin: found_by.to_owned(),
            address: address.to_owned(),
        }),
    }
}

/// `currentContext` of config.json. No such file, no such choice.
fn current_context(config: &Path) -> Result<Option<String>> {
    let file = config.join("config.json");
    let Ok(text) = fs::read(&file) else {
        return Ok(None);
    };
    let settings: Value = serde_json::from_slice(&text).map_err(|error| Error::BadContext {
        context: "current".to_owned(),
        place: file,
        reason: error.to_string(),
    })?;
    Ok(settings["currentContext"]
        .as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned))
}

/// The address of the context. Its folder is named by the SHA-256 of the name; the name itself is in the file too, so looking
/// into each spares a hash.
fn context_address(config: &Path, name: &str) -> Result<String> {
    let place = config.join("contexts/meta");
    let bad = |reason: &str| Error::BadContext {
        context: name.to_owned(),
        place: place.clone(),
        reason: reason.to_owned(),
    };
    let folders = fs::read_dir(&place).map_err(|error| bad(&error.to_string()))?;
    folders
        .filter_map(|folder| fs::read(folder.ok()?.path().join("meta.json")).ok())
        .filter_map(|text| serde_json::from_slice::<Value>(&text).ok())
        .find(|meta| meta["Name"] == name)
        .ok_or_else(|| bad("no such context"))?["Endpoints"]["docker"]["Host"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| bad("it has no Docker endpoint"))
}

fn own_uid() -> Option<u32> {
    Some(fs::metadata("/proc/self").ok()?.uid())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn look(env: &[(&str, &str)]) -> Result<Vec<Candidate>> {
        let env: HashMap<&str, &str> = env.iter().copied().collect();
        candidates(|name| env.get(name).map(|value| (*value).to_owned()))
    }

    fn sockets(env: &[(&str, &str)]) -> Vec<String> {
        let candidates = look(env).unwrap();
        candidates
            .iter()
            .map(|candidate| candidate.socket.display().to_string())
            .collect()
    }

    /// A Docker CLI's folder: a current context, and a context.
    fn config(current: &str, meta: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let context = folder.path().join("contexts/meta/0123abcd");
        fs::create_dir_all(&context).unwrap();
        fs::write(context.join("meta.json"), meta).unwrap();
        fs::write(folder.path().join("config.json"), current).unwrap();
        folder
    }

    const META: &str = r#"{"Name":"mine","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///mine/s","SkipTLSVerify":false}}}"#;

    #[test]
    fn docker_host_is_final() {
        let config = config(r#"{"currentContext":"mine"}"#, META);
        let config = config.path().to_str().unwrap();
        let env = [
            ("DOCKER_HOST", "unix:///chosen"),
            ("DOCKER_CONTEXT", "mine"),
            ("DOCKER_CONFIG", config),
        ];
        assert_eq!(sockets(&env), ["/chosen"]);
        assert_eq!(look(&env).unwrap()[0].found_by, "DOCKER_HOST");
    }

    #[test]
    fn an_address_that_is_no_unix_socket_is_refused() {
        for address in [
            "tcp://10.0.0.1:2375",
            "ssh://host",
            "unix://relative",
            "/run/s",
            "npipe:////./pipe/s",
        ] {
            let error = look(&[("DOCKER_HOST", address)]).unwrap_err().to_string();
            assert!(
                error.contains("DOCKER_HOST") && error.contains(address),
                "{error}"
            );
        }
    }

    #[test]
    fn a_context_comes_next() {
        let config = config(r#"{"auths":{},"currentContext":"mine"}"#, META);
        let config = ("DOCKER_CONFIG", config.path().to_str().unwrap());
        assert_eq!(sockets(&[config]), ["/mine/s"]);
        assert_eq!(look(&[config]).unwrap()[0].found_by, "Docker context mine");
        // The environment wins over the file, and "default" means the usual sockets.
        assert_eq!(
            sockets(&[config, ("DOCKER_CONTEXT", "default")])[0],
            "/var/run/docker.sock"
        );
        let error = look(&[config, ("DOCKER_CONTEXT", "other")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"other\"") && error.contains("no such context"),
            "{error}"
        );
        // An empty variable is none, as for the CLI.
        assert_eq!(
            sockets(&[config, ("DOCKER_HOST", ""), ("DOCKER_CONTEXT", "")]),
            ["/mine/s"]
        );
    }

    #[test]
    fn a_damaged_configuration_is_an_error_and_an_absent_one_is_not() {
        let damaged = config("{", META);
        let error = look(&[("DOCKER_CONFIG", damaged.path().to_str().unwrap())]).unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
        let without_host = config(r#"{"currentContext":"mine"}"#, r#"{"Name":"mine"}"#);
        let error = look(&[("DOCKER_CONFIG", without_host.path().to_str().unwrap())]).unwrap_err();
        assert!(error.to_string().contains("no Docker endpoint"), "{error}");
        let error = look(&[("DOCKER_CONTEXT", "mine")]).unwrap_err();
        assert!(error.to_string().contains("HOME is not set"), "{error}");
        assert_eq!(sockets(&[("HOME", "/no/such/home")])[0], "/var/run/docker.sock");
    }

    #[test]
    fn the_usual_sockets_come_last() {
        let expected = [
            "/var/run/docker.sock",
            "/mine/docker.sock",
            "/mine/podman/podman.sock",
            "/run/podman/podman.sock",
        ];
        assert_eq!(sockets(&[("XDG_RUNTIME_DIR", "/mine")]), expected);
        let uid = own_uid().unwrap();
        assert_eq!(sockets(&[])[1], format!("/run/user/{uid}/docker.sock"));
    }
}
