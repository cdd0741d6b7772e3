// SPDX-License-Identifier: GPL-3.0-or-later
//! Serial console of a machine: expect, send, transcript, remote shell.
//!
//! A background task reads whatever the machine prints, so that the machine never blocks, records it, and keeps it until a test
//! asks for it in the words of rexpect: read until a string, a regular expression, any of several, the end.
//!
//! ```
//! use std::time::Duration;
//! use alpy_console::Console;
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (ours, mut machine) = tokio::net::UnixStream::pair()?;
//! let console = Console::builder().start(ours)?;
//!
//! machine.write_all(b"Welcome to Rabbit 1.0\r\nrabbit login: ").await?;
//! let second = Duration::from_secs(1);
//! let version = console.expect_regex(r"Rabbit ([\d.]+)\r\n", second).await?;
//! assert_eq!(version.group_text(1).unwrap(), "1.0");
//! console.expect_string("login: ", second).await?;
//! console.send_line("root").await?;
//! # let mut name = [0; 5];
//! # machine.read_exact(&mut name).await?;
//! # assert_eq!(&name, b"root\n");
//! # Ok(())
//! # }
//! ```
//!
//! - [`Console`]: start here; made by a [`Builder`], which also says where the transcript goes
//! - [`ReadUntil`]: what to wait for; [`Regex`]: a pattern over bytes; [`Match`]: what was found
//! - [`Guest`]: what a guest says and expects, as data; logs in, and gives a [`RemoteShell`]
//! - [`Cli`]: the same for a command line that is no POSIX shell, as that of firmware or of a vendor; gives a [`CliSession`]
//! - [`Menu`]: the way through a menu, as data
//! - [`RemoteShell`]: runs commands and uploads files, made by a [`Guest`], or by a [`ShellBuilder`] once
//!   somebody has logged in; a [`Command`] gives an [`Output`]
//! - [`Builder::on_command`]: a function that is told of each command; [`CommandEnd`]: how one ended
//! - [`Console::into_rexpect`]: a real session of the [`rexpect`] crate over the same console, which writes to a
//!   [`SessionWriter`]
//! - [`Timer`]: how the limits of all waits are measured
//! - [`Error`]: what can go wrong; [`NOTHING_PRINTED`]: what to try with a silent guest
//!
//! Everything that waits has a deadline, and what a deadline cuts short says what was expected and what was seen last.
//!
//! # A guest of one's own
//!
//! Look at what the guest prints in `console.log` of a run, or on its console. An adapter begins with the nearest of
//! [`Guest::busybox`] and [`Guest::debian`], and says what is different:
//!
//! ```
//! # use std::time::Duration;
//! # use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use alpy_console::{Console, Error, Guest};
//!
//! fn firewall() -> Guest {
//!     Guest::debian()
//!         .ready("fw login: ") // what says that somebody may log in; `autologin` if nobody has to
//!         .user("admin")
//!         .password("secret")
//!         .root_by("sudo -i") // what gives a shell of root's, from `admin`'s
//!         .root_password("secret")
//!         .refuses_with("Account locked") // an error at once, and not after a time-out
//!         .gives_up_at("config: fatal")
//!         .power_off_command("halt -p")
//!         .boot_limit(Duration::from_secs(300))
//! }
//!
//! async fn version(console: &Console) -> Result<String, Error> {
//!     let mut shell = firewall().log_in(console).await?;
//!     let version = shell.run("cat /etc/version").await?.text().into_owned();
//!     firewall().power_off(&mut shell).await?;
//!     Ok(version)
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let (ours, mut machine) = tokio::net::UnixStream::pair()?;
//! # let console = Console::builder().start(ours)?;
//! # machine.write_all(b"fw login: ").await?;
//! # let peer = async {
//! #     let mut name = [0; 6];
//! #     machine.read_exact(&mut name).await?;
//! #     assert_eq!(&name, b"admin\n");
//! #     machine.write_all(b"admin\r\nAccount locked until noon\r\n").await
//! # };
//! # let (refused, _) = tokio::join!(version(&console), peer);
//! # let refused = refused.unwrap_err().to_string();
//! # assert!(refused.starts_with("login as \"admin\" was refused: Account locked until noon"), "{refused}");
//! # Ok(())
//! # }
//! ```
//!
//! The prompt is not among it: a random one is set. What that takes is a POSIX shell; where a login gives another one,
//! `.root_by("exec sh")` or what the guest has for it leads there, and where there is none, [`Cli`] has a prompt and speaks as people do.

mod builder;
mod cli;
mod console;
mod error;
mod guest;
mod menu;
mod observer;
mod session;
mod shell;
mod timer;
mod until;

mod echo;
mod escape;
mod matcher;
mod screen;
mod shared;
mod transcript;
mod window;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use rexpect;

pub use builder::Builder;
pub use cli::{Cli, CliSession};
pub use console::Console;
pub use error::{Error, NOTHING_PRINTED};
pub use guest::Guest;
pub use menu::Menu;
pub use observer::CommandEnd;
pub use session::SessionWriter;
pub use shell::{Command, Output, RemoteShell, ShellBuilder};
pub use timer::{Running, Timer};
pub use until::{Match, ReadUntil, Regex};
