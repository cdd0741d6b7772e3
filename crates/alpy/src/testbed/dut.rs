// SPDX-License-Identifier: GPL-3.0-or-later
//! A machine of a testbed while it runs.

use std::time::Duration;

use alpy_console::{CommandEnd, Console, Guest, NOTHING_PRINTED, RemoteShell};
use alpy_qemu::{ProcessorTime, Qemu, Recipe};
use alpy_qmp::Client;

use super::{TEARDOWN_STEP, saved};
use crate::error::{Error, Result};
use crate::failure::chain;
use crate::login;
use crate::report::Words;
use crate::step;
use crate::step::command;

/// How much of the console and of QEMU's events an error shows.
const CONSOLE_LINES: usize = 30;
const EVENTS: usize = 10;

/// A restored guest prints nothing until something is typed.
const NOTHING_SINCE_RESTORED: &str = "nothing was printed on the console since the saved state was restored";

/// A device under test: one of the machines of a testbed.
#[derive(Debug)]
pub struct Dut {
    pub(super) name: Name,
    pub(super) qemu: Qemu,
    pub(super) console: Console,
    pub(super) recipe: Option<Recipe>,
    pub(super) restored: bool,
}

/// Which machine of how many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    pub(super) index: usize,
    pub(super) count: usize,
}

impl Name {
    /// What is done with it: said of which machine where there are several.
    pub(super) fn step(self, text: &str) -> String {
        if self.count == 1 {
            text.to_owned()
        } else {
            format!("{text} (machine {})", self.index)
        }
    }

    /// The observer for its console, which makes each command a step.
    pub(super) fn on_command(self) -> impl Fn(&str) -> Box<dyn FnOnce(CommandEnd) + Send> + Send + Sync {
        move |command| {
            let text = self.step(&command::text_of(command));
            Box::new(command::on_command(text))
        }
    }
}

impl Dut {
    /// Its number among the machines of the testbed, from 0.
    pub fn index(&self) -> usize {
        self.name.index
    }

    /// The serial console. All clones of it read from the same place.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The process of the machine.
    pub fn qemu(&self) -> &Qemu {
        &self.qemu
    }

    /// The machine's monitor.
    pub fn qmp(&self) -> &Client {
        self.qemu.qmp()
    }

    /// The processor time that the host has given the machine up to now. The difference of two readings tells whether the machine was
    /// [starved](ProcessorTime::is_starved) while something was measured. `None` where the kernel has no schedstat: nobody knows then.
    pub fn processor_time(&self) -> Option<ProcessorTime> {
        self.qemu.schedule().now()
    }

    /// Starts the virtual CPU: from here on, the guest runs.
    ///
    /// A machine with a [recipe](alpy_qemu::Machine::saved_state) is at the end of it when this returns, with all read that the recipe has
    /// waited for: it was restored there, and has the time and random numbers of its own, or it has booted.
    ///
    /// # Errors
    /// QEMU does not answer; the guest does not do what the recipe says.
    ///
    /// Cancel safe without a recipe: the CPU is then running or not. With one, the guest may be anywhere.
    pub async fn start_cpu(&self) -> Result<()> {
        step!(target: "alpy::qemu", self.name.step("Start virtual CPU"), self.qemu.start_cpu()).await?;
        match &self.recipe {
            None => Ok(()),
            Some(recipe) if self.restored => {
                let wake = saved::wake(recipe, &self.console);
                step!(target: "alpy::states", self.name.step("Wake the restored guest"), wake).await
            }
            Some(recipe) => {
                let follow = saved::follow(recipe, &self.console);
                let text = format!("Boot to {}", recipe.name());
                step!(target: "alpy::states", self.name.step(&text), follow).await
            }
        }
    }

    /// The recipe at whose end [`start_cpu`](Self::start_cpu) leaves the machine.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.recipe.as_ref()
    }

    /// Whether the machine was restored from a saved state, and does not boot.
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// A shell of the guest, whose CPU was [started](Self::start_cpu): the one in which the machine's recipe has ended, as
    /// [`after_login`](crate::after_login) and [`Recipe::root_shell`] do, else the one behind a login once the guest is ready for it. So a test is the
    /// same with a saved state and without.
    ///
    /// After a reboot the shell of the recipe is gone: [`Guest::log_in`] is the word then.
    ///
    /// # Errors
    /// As [`Guest::log_in`] or [`Guest::attach`].
    ///
    /// Not cancel safe: the guest may be anywhere.
    pub async fn log_in(&self, guest: &Guest) -> Result<RemoteShell> {
        let shell = match self.recipe.as_ref().is_some_and(login::is_in_shell) {
            true => {
                let attach = guest.attach(&self.console);
                step!(target: "alpy::console", self.name.step("Attach to the shell"), attach).await
            }
            false => {
                let log_in = guest.log_in(&self.console);
                step!(target: "alpy::console", self.name.step(login::STEP), log_in).await
            }
        };
        Ok(shell?)
    }

    /// Waits until the guest has powered the machine down and QEMU has stopped it. The limit does not count the time for which the host kept a
    /// machine of the testbed from running, up to ten times the limit; nor do those of waits on its console, its monitor and its captures.
    ///
    /// # Errors
    /// The guest resets instead, QEMU ends, or the time is up.
    ///
    /// Cancel safe.
    pub async fn wait_powered_down(&self, within: Duration) -> Result<()> {
        let down = self.qemu.wait_powered_down(within);
        step!(target: "alpy::qemu", self.name.step("Wait until the VM is powered down"), down).await?;
        let stopped = self.qemu.wait_stopped(within);
        step!(target: "alpy::qemu", self.name.step("Wait until the VM is stopped"), stopped).await?;
        Ok(())
    }

    pub(super) fn is_on(&self) -> bool {
        self.qemu.exit_status().is_none()
    }

    pub(super) fn check_on(&self) -> Result<()> {
        let index = self.index();
        self.is_on().then_some(()).ok_or(Error::MachineOff { index })
    }

    /// Waits until it ends though nobody has told it to. Cancel safe.
    pub(super) async fn lost(&self) -> Error {
        let source = self.qemu.unexpected_end().await;
        match self.name {
            Name { count: 1, .. } => source.into(),
            Name { index, .. } => Error::MachineGone { index, source },
        }
    }

    /// What it said last.
    pub(super) fn words(&self) -> Words {
        let console = self.console.tail(CONSOLE_LINES);
        let console = match console.trim().is_empty() {
            false => console.as_str(),
            true if self.restored => NOTHING_SINCE_RESTORED,
            true => NOTHING_PRINTED,
        };
        let events = self.qmp().recent_events(EVENTS);
        Words {
            console: console.lines().map(str::to_owned).collect(),
            events: events.iter().map(ToString::to_string).collect(),
        }
    }

    /// Ends it, whatever fails on the way.
    pub(super) async fn end(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let quit = self.qemu.quit(TEARDOWN_STEP);
        if let Err(error) = step!(target: "alpy::qemu", self.name.step("Quit QEMU"), quit).await {
            errors.push(format!("{}: {}", self.name.step("quit QEMU"), chain(&error)));
        }
        let close = self.console.close(TEARDOWN_STEP);
        if let Err(error) = step!(target: "alpy::console", self.name.step("Close console"), close).await {
            errors.push(format!("{}: {}", self.name.step("close console"), chain(&error)));
        }
        errors.extend(self.qemu.incomplete_captures().iter().map(|file| {
            format!(
                "capture {} is not complete: QEMU could not write to it",
                file.display()
            )
        }));
        errors
    }
}

impl AsRef<Self> for Dut {
    fn as_ref(&self) -> &Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use alpy_console::Cli;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::step::Steps;

    #[tokio::test]
    async fn a_command_on_the_console_is_a_step_that_names_its_machine() {
        let (near, mut far) = tokio::io::duplex(4096);
        let name = Name { index: 1, count: 2 };
        let console = Console::builder().on_command(name.on_command());
        let console = console.start(near).unwrap();
        let guest = async {
            far.write_all(b"> ").await.unwrap();
            for answer in ["show\r\n1.0\r\n> ", "bogus\r\n% no\r\n> "] {
                while far.read_u8().await.unwrap() != b'\r' {}
                far.write_all(answer.as_bytes()).await.unwrap();
            }
        };
        let steps = Arc::new(Steps::default());
        let test = async {
            let mut cli = Cli::new("> ").complains_with("% ").open(&console).await?;
            cli.run("show").await?;
            step!("Configure", cli.run("bogus")).await
        };
        let (result, ()) = tokio::join!(steps.scope(test), guest);
        result.unwrap_err();
        let texts: Vec<_> = steps.records().into_iter().map(|step| step.text).collect();
        assert_eq!(texts, ["$ show (machine 1)", "Configure", "$ bogus (machine 1)"]);
        let at = "Configure > $ bogus (machine 1)";
        assert_eq!(steps.where_it_is().as_deref(), Some(at));
    }
}
