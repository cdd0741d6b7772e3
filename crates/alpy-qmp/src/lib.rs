// SPDX-License-Identifier: GPL-3.0-or-later
//! Asynchronous client of the QEMU Machine Protocol (QMP), on tokio.
//!
//! QMP is how a program talks to a running QEMU, or to a `qemu-storage-daemon`: commands, replies, and events in between
//! (QEMU, docs/interop/qmp-spec). This crate is the client alone. It starts no process, and needs nothing of alpy.
//!
//! ```no_run
//! use std::time::Duration;
//! use alpy_qmp::Options;
//! use alpy_qmp::commands::{Cont, QueryStatus, SystemPowerdown};
//! use serde_json::json;
//!
//! # async fn example() -> Result<(), alpy_qmp::Error> {
//! // qemu-system-x86_64 -S -qmp unix:/run/vm/qmp.sock,server=on,wait=off ...
//! let client = Options::new().connect("/run/vm/qmp.sock").await?;
//! println!("QEMU {}", client.greeting().version.qemu);
//!
//! // Commands with types, and any other as JSON.
//! client.execute(Cont).await?;
//! assert!(client.execute(QueryStatus).await?.running);
//! let chardevs = client.execute_raw("query-chardev", json!({})).await?;
//! println!("{} character devices", chardevs.as_array().map_or(0, Vec::len));
//!
//! // Events come before the reply to the command that caused them: take the position first, and none is missed.
//! let before = client.position();
//! client.execute(SystemPowerdown).await?;
//! client.wait_for("SHUTDOWN", before, Duration::from_secs(60)).await?;
//! client.quit(Duration::from_secs(10)).await?;
//! # Ok(()) }
//! ```
//!
//! - [`Options`]: start here. Settings, and the ways to connect.
//! - [`Client`]: the connection; commands, events, the end.
//! - [`Listener`]: for servers that connect to the client.
//! - [`Request`]: a command before it is awaited; time-out, descriptor, out of band.
//! - [`commands`]: typed commands. [`Command`]: what one is, for your own.
//! - [`Event`], [`Position`], [`Events`]: what happens in the server, in its sequence.
//! - [`Greeting`]: the server's version and capabilities.
//! - [`Error`], [`ServerError`], [`ErrorClass`], [`Disconnect`]: what can go wrong. [`Result`], [`BoxError`]: their short forms.
//! - [`Direction`], [`WireLog`]: for a log of all that is said.
//! - [`Timer`]: how the limits of waits for events are measured.
//!
//! # What to rely on
//! - Every command has an id, so any number of tasks may send at once, and a request that timed out or was dropped disturbs no
//!   other: its reply is dropped when it comes.
//! - At most 8 commands are with the server; the rest waits here, in order. QEMU stops reading at 8, and so would not see an
//!   out-of-band command; those go past the rest at once.
//! - Every wait ends: with its time, or with the connection. A command that was sent to a server that then ended is
//!   [`Error::OutcomeUnknown`], one that was not sent is [`Error::Disconnected`].
//! - Events are numbered and kept for a while. What came too fast is [`Error::Lagged`], never silently gone.

mod client;
mod command;
pub mod commands;
mod connect;
mod error;
mod event;
mod operations;
mod options;
mod reader;
mod request;
mod session;
mod timer;
mod transport;
mod wire;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub use client::Client;
pub use command::Command;
pub use connect::Listener;
pub use error::{BoxError, Disconnect, Error, ErrorClass, Result, ServerError};
pub use event::{Event, Events, Position};
pub use options::{Direction, Options, WireLog};
pub use request::Request;
pub use timer::{Running, Timer};
pub use wire::Greeting;
