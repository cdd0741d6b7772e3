// SPDX-License-Identifier: GPL-3.0-or-later
//! Tells the program around a console when a command begins and ends.

use std::sync::Arc;

use crate::{Console, Error, Output};

/// How a command of a [`RemoteShell`](crate::RemoteShell) or a [`CliSession`](crate::CliSession) ended for its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandEnd {
    /// The caller got the output, with this exit code. A command line without a
    /// [status command](crate::Cli::status_command) has none.
    Done(Option<i32>),
    /// The caller got an error. The exit code is there if it is the cause of the error.
    Failed(Option<i32>),
    /// The caller dropped the future.
    Cancelled,
}

/// Called when a command begins. Returns the function to call when it ends.
pub(crate) type Observer = Arc<dyn Fn(&str) -> OnEnd + Send + Sync>;

/// Called when a command ends.
pub(crate) type OnEnd = Box<dyn FnOnce(CommandEnd) + Send>;

/// Runs a command and calls the console's observer at its begin and its end. `has_code`: the code of its output is an exit code.
pub(crate) async fn observed(
    console: &Console,
    command: &str,
    has_code: bool,
    run: impl Future<Output = Result<Output, Error>>,
) -> Result<Output, Error> {
    let mut observed = Observed(console.observer().map(|observer| observer(command)));
    let result = run.await;
    let code = match &result {
        Ok(Output { code, .. }) | Err(Error::Command { code, .. }) => has_code.then_some(*code),
        Err(_) => None,
    };
    observed.end(match &result {
        Ok(_) => CommandEnd::Done(code),
        Err(_) => CommandEnd::Failed(code),
    });
    result
}

/// A command that is under way.
struct Observed(Option<OnEnd>);

impl Observed {
    fn end(&mut self, end: CommandEnd) {
        if let Some(on_end) = self.0.take() {
            on_end(end);
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.end(CommandEnd::Cancelled);
    }
}
