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
//! - [`Console::into_rexpect`]: a real session of the [`rexpect`] crate over the same console, which writes to a
//!   [`SessionWriter`]
//! - [`Error`]: what can go wrong
//!
//! Everything that waits has a deadline, and what a deadline cuts short says what was expected and what was seen last.

mod builder;
mod cli;
mod console;
mod error;
mod guest;
mod menu;
mod session;
mod shell;
mod until;

mod escape;
mod matcher;
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
pub use error::Error;
pub use guest::Guest;
pub use menu::Menu;
pub use session::SessionWriter;
pub use shell::{Command, Output, RemoteShell, ShellBuilder};
pub use until::{Match, ReadUntil, Regex};
