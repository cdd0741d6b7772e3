// SPDX-License-Identifier: GPL-3.0-or-later
//! The way from a guest that boots to its shell.

use std::time::Duration;

use tokio::time::Instant;

use super::Guest;
use super::needle::{last, needle, plain};
use super::secret::Secret;
use crate::shell::typing;
use crate::{Console, Error, Match, ReadUntil, Regex, RemoteShell, Running};

/// How long a shell may take to show the prompt that it was given until it is given again; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A guest that says nothing for so long after it asked for a password has asked for one.
const QUESTION: Duration = Duration::from_millis(500);
/// How often a name may get lost. What looks like the question for one is then the prompt of the shell.
const REPEATS: u32 = 3;
/// How often a kernel's message may spoil what is typed into a shell to attach to it.
const ATTEMPTS: u32 = 3;
/// How long the rest of a line that has begun may take.
const REST_OF_LINE: Duration = Duration::from_millis(500);

/// Waits for the text that says that the guest is ready.
pub(super) async fn wait_ready(guest: &Guest, console: &Console) -> Result<(), Error> {
    let ready = [&guest.ready].into_iter().chain(&guest.failures);
    let ready = ReadUntil::Any(ready.map(|text| needle(text)).collect());
    let mut deadline = Deadline::new(console, guest.boot_limit);
    let mut came = arrived(console);
    loop {
        match deadline.read_until(console, &ready, guest.silence).await {
            Ok(found) if found.index == 0 => return Ok(()),
            Ok(found) => return Err(gave_up(console, &found).await),
            Err(Error::Timeout { .. }) if !deadline.is_over() => {
                if came == arrived(console) {
                    console.send_line("").await?;
                }
                came = arrived(console);
            }
            Err(error) => return Err(deadline.of(error, format!("{:?}", guest.ready))),
        }
    }
}

/// Logs in.
pub(super) async fn enter(guest: &Guest, console: &Console) -> Result<(), Error> {
    let Some(user) = &guest.user else {
        return Ok(());
    };
    let entry = Entry {
        what: format!("login as {user:?}"),
        line: user,
        again: Some(last(&guest.ready)),
        password: guest.password.as_ref(),
    };
    console.send_line(user).await?;
    entry.own_prompt(guest, console).await.map(drop)
}

/// Gets a shell of root's, if it takes a command.
pub(super) async fn become_root(guest: &Guest, console: &Console) -> Result<(), Error> {
    let Some(command) = &guest.root_command else {
        return Ok(());
    };
    let entry = Entry {
        what: format!("`{command}`"),
        line: command,
        again: None,
        password: guest.root_password.as_ref(),
    };
    console.send_line(command).await?;
    entry.own_prompt(guest, console).await.map(drop)
}

/// Attaches to the shell that listens now.
pub(super) async fn attach(guest: &Guest, console: &Console) -> Result<RemoteShell, Error> {
    console.aside(attach_loudly(guest, console)).await
}

async fn attach_loudly(guest: &Guest, console: &Console) -> Result<RemoteShell, Error> {
    let entry = Entry {
        what: "setting its prompt".to_owned(),
        line: "",
        again: None,
        password: None,
    };
    let mut attempt = 1;
    loop {
        let prompt = entry.own_prompt(guest, console).await?;
        let mut shell = RemoteShell::builder(console.clone(), prompt).deadline(guest.limit);
        if guest.quiet_kernel && guest.is_root() {
            shell = shell.quiet_kernel();
        }
        match shell.attach_here(guest.limit / ATTEMPTS).await {
            Err(Error::Timeout { .. } | Error::Garbled { .. }) if attempt < ATTEMPTS => {
                attempt += 1;
                console.send_control('c').await?;
            }
            attached => return attached,
        }
    }
}

/// Something that was typed and that a shell comes of.
struct Entry<'a> {
    /// How an error names it.
    what: String,
    /// What was typed.
    line: &'a str,
    /// What is seen last if it has to be typed once more, since it got lost.
    again: Option<Regex>,
    password: Option<&'a Secret>,
}

/// What a guest says on the way to a shell.
enum Said {
    Prompt,
    Question,
    Refusal,
    Failure,
}

impl Entry<'_> {
    /// Answers the question for a password, and gives the shell a prompt of ours, until the prompt is seen.
    async fn own_prompt(&self, guest: &Guest, console: &Console) -> Result<ReadUntil, Error> {
        let id = typing::id();
        let prompt = typing::prompt(&id);
        // The echo does not show the prompt, and a variable of bash that would set the prompt anew is emptied.
        let line = format!("PROMPT_COMMAND= PS1=alpy-''{id}'# '");
        {
            let mut transcript = console.shared().transcript();
            typing::shown_prompts(&prompt)
                .iter()
                .chain(&[line.clone(), format!("{line}\r\n")])
                .for_each(|text| transcript.hide(text));
        }
        let prompt = needle(&prompt);
        let (needles, kinds) = self.needles(guest, &prompt);
        let mut deadline = Deadline::new(console, guest.limit);
        let mut password = self.password;
        let mut asked = false;
        let mut questions = 0;
        let mut repeats = REPEATS;
        let mut pause = FIRST_PAUSE;
        if password.is_none() && self.line.is_empty() {
            console.send_line_aside(&line).await?;
        }
        loop {
            let wait = match password {
                Some(_) => guest.silence,
                None if asked => QUESTION,
                None => pause,
            };
            match deadline.read_until(console, &needles, wait).await {
                Ok(found) => match kinds[found.index] {
                    Said::Prompt => return Ok(prompt),
                    Said::Failure => return Err(gave_up(console, &found).await),
                    // What was refused was meant for the shell.
                    Said::Refusal if questions > 0 && self.password.is_none() => {
                        return Err(self.no_password(console));
                    }
                    Said::Refusal => return Err(self.refused(console, &found).await),
                    Said::Question => {
                        questions += 1;
                        match password.take() {
                            Some(password) => console.send_secret_line(password.reveal()).await?,
                            None => asked = true,
                        }
                    }
                },
                Err(Error::Timeout { .. }) if !deadline.is_over() => {
                    let unread = console.unread();
                    if std::mem::take(&mut asked) && plain(&unread).trim_ascii().is_empty() {
                        return Err(self.no_password(console));
                    }
                    let lost = self.again.as_ref().is_some_and(|again| again.0.is_match(&unread));
                    if lost && repeats > 0 {
                        repeats -= 1;
                        console.send_line(self.line).await?;
                    } else if let Some(password) = password.take() {
                        console.send_secret_line(password.reveal()).await?;
                    } else {
                        console.send_line_aside(&line).await?;
                        pause = LONGEST_PAUSE.min(pause * 2);
                    }
                }
                Err(error) => return Err(deadline.of(error, format!("a shell after {}", self.what))),
            }
        }
    }

    fn needles(&self, guest: &Guest, prompt: &ReadUntil) -> (ReadUntil, Vec<Said>) {
        let mut all = vec![prompt.clone()];
        let mut kinds = vec![Said::Prompt];
        let mut add = |texts: &[String], kind: fn() -> Said| {
            for text in texts {
                all.push(needle(text));
                kinds.push(kind());
            }
        };
        add(&guest.failures, || Said::Failure);
        if !self.line.is_empty() {
            add(&guest.password_prompts, || Said::Question);
            add(&guest.refusals, || Said::Refusal);
        }
        (ReadUntil::Any(all), kinds)
    }

    async fn refused(&self, console: &Console, found: &Match) -> Error {
        Error::Refused {
            what: self.what.clone(),
            why: line_of(console, found).await,
            seen: console.seen(),
        }
    }

    fn no_password(&self, console: &Console) -> Error {
        Error::Refused {
            what: self.what.clone(),
            why: "there is a question for a password, and the guest was given none".to_owned(),
            seen: console.seen(),
        }
    }
}

/// The error of a guest that has said this.
pub(crate) async fn gave_up(console: &Console, found: &Match) -> Error {
    Error::GaveUp {
        text: line_of(console, found).await,
        seen: console.seen(),
    }
}

/// What was found and the rest of its line.
async fn line_of(console: &Console, found: &Match) -> String {
    let rest = console.read_line(REST_OF_LINE).await.unwrap_or_default();
    let found = plain(&found.matched);
    let line = format!("{}{rest}", String::from_utf8_lossy(&found));
    line.trim_end().to_owned()
}

/// How many bytes have come so far.
pub(crate) fn arrived(console: &Console) -> u64 {
    let window = &console.shared().state().window;
    window.position() + window.unread().len() as u64
}

/// A limit for several waits together.
pub(crate) struct Deadline {
    start: Instant,
    limit: Duration,
    timer: Running,
    over: bool,
}

impl Deadline {
    pub(crate) fn new(console: &Console, limit: Duration) -> Self {
        Self {
            start: Instant::now(),
            limit,
            timer: console.timer(limit),
            over: false,
        }
    }

    /// Reads for as long as is left, but at most for this time.
    pub(crate) async fn read_until(
        &mut self,
        console: &Console,
        needle: &ReadUntil,
        most: Duration,
    ) -> Result<Match, Error> {
        if !self.over {
            tokio::select! {
                biased;
                found = console.read_until(needle, most) => return found,
                () = &mut self.timer => self.over = true,
            }
        }
        console.read_until(needle, Duration::ZERO).await
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// The error of the last wait as one of all of them.
    pub(crate) fn of(&self, mut error: Error, expected: String) -> Error {
        if let Error::Timeout { after, waited, .. } = &mut error {
            *after = self.limit;
            *waited = self.start.elapsed();
        }
        error.expecting(expected)
    }
}
