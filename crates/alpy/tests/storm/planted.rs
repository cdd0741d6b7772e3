// SPDX-License-Identifier: GPL-3.0-or-later
//! Leftovers that are put there on purpose: an inventory that does not find them is none.

use std::fs;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use alpy::docker::{Archive, Container, Engine, Running};

use crate::inventory::Scope;

/// Something to be left.
pub(crate) enum Plant {
    /// Running, with the name.
    Container(Engine, Box<Container>),
    Image(Engine, String),
    /// With the name among its arguments, as QEMU and guardians have it.
    Process(String),
    Interface,
    Namespace,
    Mount(PathBuf),
    Socket(PathBuf),
    Folder(PathBuf),
}

/// What is left, until it is removed.
pub(crate) enum Planted {
    Running(Box<Running>),
    Image(Engine, String),
    Process(Child),
    Undo(&'static str, Vec<String>),
    Path(PathBuf),
}

pub(crate) fn all(scope: &Scope, engine: &Engine, image: &str) -> Vec<Plant> {
    let name = format!("{}-planted", scope.name());
    let container = Container::new(image).name(&name).command(["cat"]).stdin();
    let labelled = Container::new(image)
        .label("alpy.test", &name)
        .command(["cat"])
        .stdin();
    let folder = |name: &str| scope.evidence().join("planted").join(name);
    vec![
        Plant::Container(engine.clone(), Box::new(container)),
        Plant::Container(engine.clone(), Box::new(labelled)),
        Plant::Image(engine.clone(), format!("{name}:1")),
        Plant::Process(name),
        Plant::Interface,
        Plant::Namespace,
        Plant::Mount(folder("mount")),
        Plant::Socket(folder("socket")),
        Plant::Folder(folder("alpy-1-2-3")),
        Plant::Folder(std::env::temp_dir().join(format!("alpy-{}-0-planted", std::process::id()))),
    ]
}

impl Plant {
    /// How the inventory calls it.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Container(..) => "container",
            Self::Image(..) => "image",
            Self::Process(_) => "process",
            Self::Interface => "interface",
            Self::Namespace => "namespace",
            Self::Mount(_) => "mount",
            Self::Socket(_) => "socket",
            Self::Folder(_) => "folder",
        }
    }

    /// Plants it, or says why it cannot.
    pub(crate) async fn make(&self) -> Result<Planted, String> {
        match self {
            Self::Container(engine, container) => Ok(Planted::Running(Box::new(
                container.clone().start(engine).await.unwrap(),
            ))),
            Self::Image(engine, tag) => {
                let root = Archive::new().folder("empty", 0o755).unwrap().finish();
                engine.import_image(tag, root, &[]).await.unwrap();
                Ok(Planted::Image(engine.clone(), tag.clone()))
            }
            Self::Process(name) => {
                let mut sleep = program("sleep");
                sleep.arg0(name).arg("1000");
                Ok(Planted::Process(sleep.spawn().unwrap()))
            }
            Self::Interface => undo(
                "ip",
                &["link", "add", "alpyplant0", "type", "dummy"],
                &["link", "del", "alpyplant0"],
            )
            // Where the kernel has no dummies, it has bridges.
            .or_else(|_| {
                undo(
                    "ip",
                    &["tuntap", "add", "alpyplant0", "mode", "tap"],
                    &["tuntap", "del", "alpyplant0", "mode", "tap"],
                )
            }),
            Self::Namespace => undo(
                "ip",
                &["netns", "add", "alpyplant"],
                &["netns", "del", "alpyplant"],
            ),
            Self::Mount(path) => {
                fs::create_dir_all(path).unwrap();
                let path = path.to_str().unwrap();
                undo("mount", &["-t", "tmpfs", "none", path], &[path]).map(|planted| match planted {
                    Planted::Undo(_, arguments) => Planted::Undo("umount", arguments),
                    other => other,
                })
            }
            Self::Socket(path) => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                drop(UnixListener::bind(path).unwrap());
                Ok(Planted::Path(path.clone()))
            }
            Self::Folder(path) => {
                fs::create_dir_all(path).unwrap();
                Ok(Planted::Path(path.clone()))
            }
        }
    }
}

impl Planted {
    pub(crate) async fn remove(self) {
        match self {
            Self::Running(running) => running.remove().await.unwrap(),
            Self::Image(engine, tag) => engine.remove_image(&tag).await.unwrap(),
            Self::Process(mut child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            Self::Undo(name, arguments) => assert!(program(name).args(arguments).status().unwrap().success()),
            Self::Path(path) if path.is_dir() => fs::remove_dir(path).unwrap(),
            Self::Path(path) => fs::remove_file(path).unwrap(),
        }
    }
}

/// Runs a command whose effect another call of the same program takes back.
fn undo(name: &'static str, make: &[&str], remove: &[&str]) -> Result<Planted, String> {
    let output = program(name)
        .args(make)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(Planted::Undo(
            name,
            remove.iter().map(ToString::to_string).collect(),
        ))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }
}

#[expect(clippy::disallowed_methods, reason = "the tests watch over what they start")]
fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    // Where an ordinary user's PATH does not have them, they are still there.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}
