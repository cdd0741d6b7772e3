// SPDX-License-Identifier: GPL-3.0-or-later
//! The sockets on which an engine may listen.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::context;
use crate::{Attempt, Error, Reason, Result};

/// A socket on which an engine may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// The path of the socket.
    pub socket: PathBuf,
    /// What named it.
    pub found_by: FoundBy,
}

/// What named the address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FoundBy {
    /// The variable `DOCKER_HOST`.
    DockerHost,
    /// The Docker context of this name.
    Context(String),
    /// Nothing did: it is one of the sockets on which engines listen by default.
    UsualSocket,
    /// The caller.
    Caller,
}

impl FoundBy {
    /// Whether a person chose the engine. No other engine is tried then.
    pub fn is_choice(&self) -> bool {
        *self != Self::UsualSocket
    }
}

impl fmt::Display for FoundBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DockerHost => f.write_str("DOCKER_HOST"),
            Self::Context(name) => write!(f, "Docker context {name}"),
            Self::UsualSocket => f.write_str("usual socket"),
            Self::Caller => f.write_str("the caller"),
        }
    }
}

impl Candidate {
    /// The address, such as `unix:///var/run/docker.sock`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// This candidate as one that was tried in vain.
    pub fn attempt(self, reason: Reason) -> Attempt {
        Attempt {
            socket: self.socket,
            found_by: self.found_by,
            reason,
        }
    }
}

/// The sockets to try, in order. What a person chose (`DOCKER_HOST`, a context) is final: nothing else is then tried, so that
/// no test runs on another engine than the one meant. An empty variable counts as unset.
///
/// The environment comes in as a function, so that a test need not change the environment of its process.
///
/// # Errors
/// [`Error::UnsupportedAddress`], [`Error::NotUnicode`] and [`Error::BadContext`].
pub fn candidates_in(env: impl Fn(&str) -> Option<OsString>) -> Result<Vec<Candidate>> {
    let path = |name: &str| env(name).filter(|value| !value.is_empty());
    let text = |name: &'static str| match path(name).map(OsString::into_string) {
        Some(Ok(value)) => Ok(Some(value)),
        Some(Err(value)) => Err(Error::NotUnicode { name, value }),
        None => Ok(None),
    };
    if let Some(address) = text("DOCKER_HOST")? {
        return Ok(vec![candidate(FoundBy::DockerHost, &address)?]);
    }
    let config = path("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| path("HOME").map(|home| Path::new(&home).join(".docker")));
    let name = match (text("DOCKER_CONTEXT")?, &config) {
        (Some(name), _) => Some(name),
        (None, Some(config)) => context::current(config)?,
        (None, None) => None,
    };
    if let Some(name) = name.filter(|name| name != "default") {
        let address = context::address(config.as_deref(), &name)?;
        return Ok(vec![candidate(FoundBy::Context(name), &address)?]);
    }
    let private = path("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .or_else(|| Some(format!("/run/user/{}", own_uid()?).into()));
    let sockets = [
        Some(PathBuf::from("/var/run/docker.sock")),
        private.as_ref().map(|dir| dir.join("docker.sock")),
        private.as_ref().map(|dir| dir.join("podman/podman.sock")),
        Some(PathBuf::from("/run/podman/podman.sock")),
    ];
    let candidates = sockets.into_iter().flatten().map(|socket| Candidate {
        socket,
        found_by: FoundBy::UsualSocket,
    });
    Ok(candidates.collect())
}

/// The socket that an address names.
///
/// # Errors
/// [`Error::UnsupportedAddress`] unless it is `unix://` and an absolute path.
pub fn candidate(found_by: FoundBy, address: &str) -> Result<Candidate> {
    match address.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(Candidate {
            socket: path.into(),
            found_by,
        }),
        _ => Err(Error::UnsupportedAddress {
            found_by,
            address: address.to_owned(),
        }),
    }
}

fn own_uid() -> Option<u32> {
    Some(fs::metadata("/proc/self").ok()?.uid())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn look(env: &[(&str, &str)]) -> Result<Vec<Candidate>> {
        let env: HashMap<&str, &str> = env.iter().copied().collect();
        candidates_in(|name| env.get(name).map(OsString::from))
    }

    fn sockets(env: &[(&str, &str)]) -> Vec<String> {
        let candidates = look(env).unwrap();
        candidates
            .iter()
            .map(|candidate| candidate.socket.display().to_string())
            .collect()
    }

    /// A folder of the Docker CLI: a current context, and a context.
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
        assert_eq!(look(&env).unwrap()[0].found_by, FoundBy::DockerHost);
    }

    #[test]
    fn refuses_an_address_that_is_not_a_unix_socket_and_gives_a_remedy() {
        for address in [
            "tcp://10.0.0.1:2375",
            "ssh://host",
            "unix://relative",
            "/run/s",
            "npipe:////./pipe/s",
        ] {
            let error = look(&[("DOCKER_HOST", address)]).unwrap_err().to_string();
            for part in ["DOCKER_HOST", address, "; remedy: "] {
                assert!(error.contains(part), "no {part:?} in {error}");
            }
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_context_comes_next() {
        let config = config(r#"{"auths":{},"currentContext":"mine"}"#, META);
        let config = ("DOCKER_CONFIG", config.path().to_str().unwrap());
        assert_eq!(sockets(&[config]), ["/mine/s"]);
        assert_eq!(
            look(&[config]).unwrap()[0].found_by.to_string(),
            "Docker context mine"
        );
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
    fn finds_a_context_among_others_by_its_name() {
        let config = config("{}", META);
        for (folder, meta) in [
            ("damaged", "{"),
            (
                "other",
                r#"{"Name":"other","Endpoints":{"docker":{"Host":"unix:///other"}}}"#,
            ),
        ] {
            let folder = config.path().join("contexts/meta").join(folder);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("meta.json"), meta).unwrap();
        }
        fs::create_dir(config.path().join("contexts/meta/empty")).unwrap();
        let config = ("DOCKER_CONFIG", config.path().to_str().unwrap());
        assert_eq!(sockets(&[config, ("DOCKER_CONTEXT", "other")]), ["/other"]);
        assert_eq!(sockets(&[config])[0], "/var/run/docker.sock");
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
    fn a_value_that_is_not_utf_8_is_an_error_where_it_is_a_choice_and_else_a_path() {
        let odd = OsStr::from_bytes(b"/run/\xff");
        let look = |set: &str| candidates_in(|name| (name == set).then(|| odd.to_owned()));
        for name in ["DOCKER_HOST", "DOCKER_CONTEXT"] {
            let error = look(name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("UTF-8"), "{error}");
        }
        let socket = Path::new(odd).join("docker.sock");
        assert_eq!(look("XDG_RUNTIME_DIR").unwrap()[1].socket, socket);
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
