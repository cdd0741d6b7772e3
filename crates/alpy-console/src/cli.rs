// SPDX-License-Identifier: GPL-3.0-or-later
//! Command lines that are no POSIX shell: of firmware, of vendors.

use std::time::Duration;

use crate::guest::login::{Deadline, arrived, gave_up};
use crate::guest::needle::{last, needle, plain};
use crate::observer::observed;
use crate::shell::checked;
use crate::{Console, Error, Output, ReadUntil};

/// The console has said all for now if it is silent for so long.
const QUIET: Duration = Duration::from_millis(300);

/// A command line that is no POSIX shell, as data: its prompt, its key for the end of a line, and how it says that a command failed.
///
/// There are adapters for the [shell of UEFI firmware](Self::uefi_shell) and for [iPXE](Self::ipxe). One of a vendor:
///
/// ```
/// use alpy_console::Cli;
///
/// let router = Cli::new("> ").also_prompt("# ").complains_with("% ").gives_up_at("Traceback");
/// ```
///
/// Such a command line has no random sentinel to set, so a prompt is what it is only at the end of what came: text like it in the
/// middle of an output does no harm. Pages of output are not turned: let the first command be the one that says not to wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use]
pub struct Cli {
    prompts: Vec<String>,
    enter: String,
    keys_at_once: Option<usize>,
    status: Option<String>,
    complaints: Vec<String>,
    complaints_within: Vec<String>,
    failures: Vec<String>,
    boot_limit: Duration,
    limit: Duration,
    silence: Duration,
}

impl Cli {
    /// A command line that shows this at the end of its prompt. What comes before it without a space is part of the prompt, as the host's
    /// name or the mode.
    pub fn new(prompt: impl Into<String>) -> Self {
        Self {
            prompts: vec![prompt.into()],
            enter: "\r".to_owned(),
            keys_at_once: None,
            status: None,
            complaints: Vec::new(),
            complaints_within: Vec::new(),
            failures: Vec::new(),
            boot_limit: Duration::from_secs(120),
            limit: Duration::from_secs(30),
            silence: Duration::from_secs(15),
        }
    }

    /// The shell of UEFI firmware, as EDK II's in OVMF.
    ///
    /// OVMF with secure boot has none, nor has any OVMF of 2026 or later. There, boot the shell from a disk as `EFI/BOOT/BOOTX64.EFI`: Debian has
    /// it in the package efi-shell-x64.
    pub fn uefi_shell() -> Self {
        Self::new("Shell> ")
            .also_prompt(r"\> ")
            .status_command("echo %lasterror%")
    }

    /// The command line of iPXE. Ctrl-B opens it: `Menu::new().wait_for("Press Ctrl-B").press("\x02")`.
    ///
    /// It may have its keys from SeaBIOS, which [forgets some](Self::keys_at_once).
    pub fn ipxe() -> Self {
        Self::new("iPXE> ")
            .keys_at_once(8)
            .complains_with("Could not ")
            .complains_with("Usage:")
            .complains_within(": command not found")
            .complains_within(": no such ")
    }

    /// One more prompt, of another mode.
    pub fn also_prompt(mut self, text: impl Into<String>) -> Self {
        self.prompts.push(text.into());
        self
    }

    /// What ends a line, `\r` by default, as the key does.
    pub fn enter(mut self, keys: impl Into<String>) -> Self {
        self.enter = keys.into();
        self
    }

    /// How many keys of a command are typed before their echo has come, all by default. SeaBIOS looks for keys 18 times a second and forgets
    /// what is more than 15 at a time (`src/sercon.c` and `src/kbd.c` there). Not for a command line that does not echo.
    ///
    /// # Panics
    /// At 0.
    pub fn keys_at_once(mut self, keys: usize) -> Self {
        assert!(keys > 0, "a command line takes a key at least, and not 0");
        self.keys_at_once = Some(keys);
        self
    }

    /// A command that shows how the last one ended, as a number on a line of its own, decimal or with `0x`; none by default.
    pub fn status_command(mut self, command: impl Into<String>) -> Self {
        self.status = Some(command.into());
        self
    }

    /// A text at the beginning of a line of output that says that the command was not understood or failed, as `% ` of many vendors.
    pub fn complains_with(mut self, text: impl Into<String>) -> Self {
        self.complaints.push(text.into());
        self
    }

    /// A text anywhere in a line of output that says so, as `command not found` behind the command's name.
    pub fn complains_within(mut self, text: impl Into<String>) -> Self {
        self.complaints_within.push(text.into());
        self
    }

    /// A text that says that the guest has given up.
    pub fn gives_up_at(mut self, text: impl Into<String>) -> Self {
        self.failures.push(text.into());
        self
    }

    /// How long it may take until the first prompt, 2 min by default.
    pub fn boot_limit(mut self, limit: Duration) -> Self {
        self.boot_limit = limit;
        self
    }

    /// How long each command may take, 30 s by default.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// How long the console is silent until an empty line is sent for a prompt that somebody has read already; 15 s by default.
    pub fn silence(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Waits for the prompt.
    ///
    /// Not cancel safe: empty lines may have been sent.
    ///
    /// # Errors
    /// [`Error::GaveUp`], [`Error::Timeout`], [`Error::Ended`], and as [`Console::send`].
    pub async fn open(&self, console: &Console) -> Result<CliSession, Error> {
        let needles = self.needles();
        let mut deadline = Deadline::new(console, self.boot_limit);
        let mut came = arrived(console);
        let mut nudged = false;
        loop {
            match deadline.read_until(console, &needles, self.silence).await {
                Ok(found) if found.index < self.prompts.len() => break,
                Ok(found) => return Err(gave_up(console, &found).await),
                Err(Error::Timeout { .. }) if !deadline.is_over() => {
                    if came == arrived(console) {
                        console.send(&self.enter).await?;
                        nudged = true;
                    }
                    came = arrived(console);
                }
                Err(error) => return Err(deadline.of(error, needles.to_string())),
            }
        }
        if nudged {
            quiet(console, self.limit).await?;
        }
        Ok(CliSession {
            cli: self.clone(),
            console: console.clone(),
            needles,
            unfinished: false,
        })
    }

    /// The prompts, then the failures.
    fn needles(&self) -> ReadUntil {
        let prompts = self.prompts.iter().map(|text| ReadUntil::from(last(text)));
        let failures = self.failures.iter().map(|text| needle(text));
        ReadUntil::Any(prompts.chain(failures).collect())
    }

    fn complains(&self, output: &str) -> bool {
        output.lines().any(|line| {
            let begins = self.complaints.iter().any(|text| line.starts_with(text));
            begins || self.complaints_within.iter().any(|text| line.contains(text))
        })
    }
}

/// A command line that has shown its prompt; made by [`Cli::open`].
///
/// No method is cancel safe. After one was dropped or ran into its limit, the next one first interrupts with Ctrl-C.
#[derive(Debug)]
pub struct CliSession {
    cli: Cli,
    console: Console,
    needles: ReadUntil,
    unfinished: bool,
}

impl CliSession {
    /// Types a command and returns what it printed, without escape sequences and with `\n` at the end of each line. The code is 0
    /// where the command line has no other.
    ///
    /// # Errors
    /// [`Error::Command`] if the command line complains, with code 1, or if its status is not 0; [`Error::Garbled`] if the status
    /// is no number; [`Error::Timeout`] after the limit, for the echo of keys too, and as [`Cli::open`].
    pub async fn run(&mut self, command: impl AsRef<str>) -> Result<Output, Error> {
        let command = command.as_ref();
        let (console, has_code) = (self.console.clone(), self.cli.status.is_some());
        let run = async { checked(command, self.judged(command).await?) };
        observed(&console, command, has_code, run).await
    }

    /// The same, and takes a complaint or a status for an answer and not for an error.
    ///
    /// # Errors
    /// As [`run`](Self::run), without [`Error::Command`].
    pub async fn run_ignoring_status(&mut self, command: impl AsRef<str>) -> Result<Output, Error> {
        let command = command.as_ref();
        let (console, has_code) = (self.console.clone(), self.cli.status.is_some());
        observed(&console, command, has_code, self.judged(command)).await
    }

    /// The console, to speak with it directly.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// The output of a command, with its status or 1 for a complaint.
    async fn judged(&mut self, command: &str) -> Result<Output, Error> {
        let text = self.typed(command).await?;
        let mut code = i32::from(self.cli.complains(&text));
        if let Some(status) = self.cli.status.clone() {
            let answer = self.typed(&status).await?;
            code = number(answer.trim()).ok_or_else(|| Error::Garbled {
                command: command.to_owned(),
                problem: format!("{:?} is no status", answer.trim()),
                seen: self.console.seen(),
            })?;
        }
        Ok(Output {
            code,
            bytes: text.into_bytes(),
        })
    }

    async fn typed(&mut self, command: &str) -> Result<String, Error> {
        if self.unfinished {
            self.console.send_control('c').await?;
            self.console.send(&self.cli.enter).await?;
            quiet(&self.console, self.cli.limit).await?;
        }
        self.console.try_read();
        self.unfinished = true;
        let (mut came, rest) = match self.cli.keys_at_once {
            Some(keys) => (self.echoed(command, keys).await?, ""),
            None => (Vec::new(), command),
        };
        self.console.send(format!("{rest}{}", self.cli.enter)).await?;
        let found = self.console.read_until(&self.needles, self.cli.limit).await;
        let found = found.map_err(|error| error.expecting(format!("the prompt after `{command}`")))?;
        if found.index >= self.cli.prompts.len() {
            return Err(gave_up(&self.console, &found).await);
        }
        self.unfinished = false;
        came.extend(&found.before);
        let text = plain(&came);
        let text = String::from_utf8_lossy(&text);
        // What is left of the prompt.
        let text = text.trim_end_matches(|character: char| !character.is_whitespace());
        Ok(without_echo(text, command)
            .replace("\r\n", "\n")
            .replace('\r', ""))
    }

    /// Types a command without its end, so many keys at once, and returns its echo with all that came between.
    async fn echoed(&self, command: &str, at_once: usize) -> Result<Vec<u8>, Error> {
        let mut deadline = Deadline::new(&self.console, self.cli.limit);
        let mut echo = Vec::new();
        let keys: Vec<char> = command.chars().collect();
        for part in keys.chunks(at_once) {
            self.console.send(String::from_iter(part)).await?;
            // One after the other, for a line editor may wrap between any two.
            for key in part {
                let key = key.to_string();
                let needle = ReadUntil::from(key.as_str());
                let found = deadline.read_until(&self.console, &needle, self.cli.limit).await;
                let expected = || format!("the echo of {key:?} in `{command}`");
                let found = found.map_err(|error| deadline.of(error, expected()))?;
                echo.extend(found.before);
                echo.extend(found.matched);
            }
        }
        Ok(echo)
    }
}

/// What comes behind the echo of a command, which a line editor may have wrapped.
fn without_echo<'a>(text: &'a str, command: &str) -> &'a str {
    let mut wanted = command.chars().filter(|character| !character.is_whitespace());
    let mut next = wanted.next();
    for (index, character) in text.char_indices() {
        let Some(expected) = next else {
            return text[index..].split_once('\n').map_or("", |(_, output)| output);
        };
        if character == expected {
            next = wanted.next();
        } else if !character.is_whitespace() && !character.is_control() {
            // It does not echo.
            return text;
        }
    }
    if next.is_none() { "" } else { text }
}

/// A status; one that is too large for a code is the largest.
fn number(text: &str) -> Option<i32> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => text.parse().ok()?,
    };
    Some(i32::try_from(number).unwrap_or(i32::MAX))
}

/// Waits until nothing comes any more, and reads it.
async fn quiet(console: &Console, limit: Duration) -> Result<(), Error> {
    let mut deadline = Deadline::new(console, limit);
    loop {
        let came = arrived(console);
        match deadline.read_until(console, &ReadUntil::EOF, QUIET).await {
            Err(Error::Timeout { .. }) if came == arrived(console) => break,
            Err(Error::Timeout { .. }) if !deadline.is_over() => {}
            Err(error) => return Err(deadline.of(error, "a pause".to_owned())),
            Ok(_) => break,
        }
    }
    console.try_read();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_echo_away_however_it_is_wrapped() {
        for (text, output) in [
            ("show version\r\n1.0\r\n", "1.0\r\n"),
            ("show ver \r\r\nsion\r\n1.0\r\n", "1.0\r\n"),
            ("show version", ""),
            ("1.0\r\n", "1.0\r\n"),
            ("\r\n", "\r\n"),
        ] {
            assert_eq!(without_echo(text, "show version"), output, "{text:?}");
        }
    }

    #[test]
    fn reads_a_status() {
        for (text, code) in [
            ("0", Some(0)),
            ("0xE", Some(14)),
            ("0x800000000000000E", Some(i32::MAX)),
            ("", None),
        ] {
            assert_eq!(number(text), code, "{text:?}");
        }
    }
}
