// SPDX-License-Identifier: GPL-3.0-or-later
//! Containers whose lifetime is tied to a test.
//!
//! ```no_run
//! # async fn example() -> alpy_docker::Result<()> {
//! use alpy_docker::{Container, Engine};
//!
//! let engine = Engine::connect().await?;
//! // A node: a container that does nothing but keep its namespaces. It ends when this process does, whatever happens.
//! let node = Container::new("busybox:latest").command(["cat"]).stdin().start(&engine).await?;
//! let output = Container::new("busybox:latest")
//!     .command(["ip", "address"])
//!     .network_of(node.id())
//!     .run(&engine)
//!     .await?
//!     .success()?;
//! println!("{}", output.stdout_text());
//! node.remove().await?;
//! # Ok(()) }
//! ```
//!
//! - [`Engine`]: start here. Finds Docker, or what speaks its language, and asks for images.
//! - [`Container`]: what a container shall be; [`run`](Container::run) it to its end or [`start`](Container::start) it.
//! - [`Running`]: a container in the background: its output as it comes, signals, files, its end.
//! - [`Output`], [`ExitStatus`], [`Failure`]: what it wrote, how it ended, and the error made of it.
//! - [`Archive`], [`Tar`]: the files of an image or for a container.
//! - [`address`]: where the engine is looked for.
//! - [`Error`]: each thing that goes wrong has its own variant and says what to do.

mod archive;
mod container;
mod create;
mod engine;
mod error;
mod exec;
mod image;
mod log;
mod output;
mod plain;
mod running;
mod status;
mod under_way;
mod watch;

pub use alpy_engine_address as address;
pub use archive::{Archive, Tar};
pub use container::Container;
pub use engine::{ContainerInfo, Engine, EngineInfo};
pub use error::{Error, Result};
pub use output::{Failure, Output, Stream};
pub use running::Running;
#[doc(hidden)]
pub use running::log_started;
pub use status::ExitStatus;
