// SPDX-License-Identifier: GPL-3.0-or-later
//! Menus on a serial console.

use std::time::Duration;

use crate::guest::login::{Deadline, gave_up};
use crate::guest::needle::needle;
use crate::{Console, Error, Match, ReadUntil};

/// How long a key that is pressed again and again rests.
const BETWEEN: Duration = Duration::from_millis(500);

/// The way through a menu on a serial console, as data: what to wait for, and which keys to press.
///
/// ```
/// use alpy_console::Menu;
///
/// let rescue = Menu::new()
///     .press_until(Menu::ESCAPE, "Boot Manager")
///     .press(Menu::DOWN)
///     .press(Menu::ENTER)
///     .wait_for("Rescue system");
/// ```
///
/// The texts are found though the menu colours them, not where it moves the cursor between their characters to draw them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Menu {
    steps: Vec<Step>,
    failures: Vec<String>,
    limit: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Wait(String),
    Press(String),
    PressUntil(String, String),
}

impl Menu {
    /// The key Enter.
    pub const ENTER: &str = "\r";
    /// The key Escape. What follows at once may be taken for the rest of another key.
    pub const ESCAPE: &str = "\x1b";
    /// The key Up of a VT100, as the next ones.
    pub const UP: &str = "\x1b[A";
    /// The key Down.
    pub const DOWN: &str = "\x1b[B";
    /// The key Right.
    pub const RIGHT: &str = "\x1b[C";
    /// The key Left.
    pub const LEFT: &str = "\x1b[D";

    /// A way of no steps.
    pub fn new() -> Self {
        Self {
            steps: Vec::new(),
            failures: Vec::new(),
            limit: Duration::from_secs(60),
        }
    }

    /// Waits for a text.
    pub fn wait_for(self, text: impl Into<String>) -> Self {
        self.step(Step::Wait(text.into()))
    }

    /// Presses keys once. Ctrl-B is `"\x02"`, Ctrl-C `"\x03"`, and so on. Firmware may [forget](crate::Cli::keys_at_once) what is more than
    /// a few at once: let the next ones wait for a text.
    pub fn press(self, keys: impl Into<String>) -> Self {
        self.step(Step::Press(keys.into()))
    }

    /// Presses keys twice a second until a text comes: for what listens only for a moment, and is not heard itself. The text is read then: let it
    /// be one before the prompt that a [`Cli`](crate::Cli) waits for next.
    pub fn press_until(self, keys: impl Into<String>, text: impl Into<String>) -> Self {
        self.step(Step::PressUntil(keys.into(), text.into()))
    }

    /// A text that says that the guest has given up.
    pub fn gives_up_at(mut self, text: impl Into<String>) -> Self {
        self.failures.push(text.into());
        self
    }

    /// How long each text may take to come, 60 s by default.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Goes the way, and has read up to the end of the last text then.
    ///
    /// Not cancel safe: keys may have been pressed.
    ///
    /// # Errors
    /// [`Error::GaveUp`], [`Error::Timeout`], [`Error::Ended`], and as [`Console::send`].
    pub async fn choose(&self, console: &Console) -> Result<(), Error> {
        for step in &self.steps {
            match step {
                Step::Wait(text) => {
                    let found = console.read_until(&self.needles(text), self.limit).await;
                    self.check(
                        console,
                        found.map_err(|error| error.expecting(format!("{text:?}")))?,
                    )
                    .await?;
                }
                Step::Press(keys) => console.send(keys).await?,
                Step::PressUntil(keys, text) => self.press_keys(console, keys, text).await?,
            }
        }
        Ok(())
    }

    async fn press_keys(&self, console: &Console, keys: &str, text: &str) -> Result<(), Error> {
        let needles = self.needles(text);
        let mut deadline = Deadline::new(console, self.limit);
        loop {
            console.send(keys).await?;
            match deadline.read_until(console, &needles, BETWEEN).await {
                Ok(found) => return self.check(console, found).await,
                Err(Error::Timeout { .. }) if !deadline.is_over() => {}
                Err(error) => return Err(deadline.of(error, format!("{text:?}"))),
            }
        }
    }

    async fn check(&self, console: &Console, found: Match) -> Result<(), Error> {
        match found.index {
            0 => Ok(()),
            _ => Err(gave_up(console, &found).await),
        }
    }

    fn needles(&self, text: &str) -> ReadUntil {
        let failures = self.failures.iter().map(String::as_str);
        ReadUntil::Any([text].into_iter().chain(failures).map(needle).collect())
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

impl Default for Menu {
    fn default() -> Self {
        Self::new()
    }
}
