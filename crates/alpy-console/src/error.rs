// SPDX-License-Identifier: GPL-3.0-or-later
//! What can go wrong on a console.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::escape::shortened;

/// What can go wrong on a console or in a remote shell.
///
/// `seen` holds the last lines that came, escapes shown as in `console.log`; of a program that draws a whole screen, its texts line by line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was expected did not come in time. Nothing is lost: what came can still be read.
    #[error("expected {expected} within {}{}; {}", waited_text(*.after, *.waited), dropped_text(*.dropped), said(.seen))]
    Timeout {
        /// The needle, or what else was waited for.
        expected: String,
        /// The deadline given.
        after: Duration,
        /// The wall time that passed. It is longer than the deadline if the console's [`Timer`](crate::Timer) did not count all of it.
        waited: Duration,
        /// The last lines that came.
        seen: String,
        /// Bytes that fell out of the window unread before what can still be read.
        dropped: u64,
    },

    /// The far end closed before what was expected came.
    #[error("expected {expected}, but the console ended ({reason}); {}", said(.seen))]
    Ended {
        /// The needle, or what else was waited for.
        expected: String,
        /// How it ended: end of file, closed here, or the error of the read.
        reason: String,
        /// The last lines that came.
        seen: String,
    },

    /// A needle that cannot fit into the window and so can never be found.
    #[error("{expected} is {bytes} bytes long, more than the window of {window} bytes")]
    NeedleTooLong {
        /// The needle.
        expected: String,
        /// Its length.
        bytes: usize,
        /// The length of the window, see [`Builder::window_bytes`](crate::Builder::window_bytes).
        window: usize,
    },

    /// A regular expression that is none.
    #[error("{pattern:?} is not a regular expression")]
    Regex {
        /// The pattern given.
        pattern: String,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A character that has no control code.
    #[error("there is no control code for {0:?}")]
    Control(char),

    /// The far end took none or only a part of what was sent in time.
    #[error("sent {sent} of {length} bytes within {after:?}: the far end does not read")]
    SendTimeout {
        /// Bytes taken.
        sent: usize,
        /// Bytes to send.
        length: usize,
        /// The deadline of the console, see [`Builder::send_deadline`](crate::Builder::send_deadline).
        after: Duration,
    },

    /// Writing to the far end failed.
    #[error("sent {sent} of {length} bytes")]
    Send {
        /// Bytes taken.
        sent: usize,
        /// Bytes to send.
        length: usize,
        /// Why.
        source: io::Error,
    },

    /// A file of the transcript could not be made or written.
    #[error("transcript {}", .path.display())]
    Transcript {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A console was started outside a tokio runtime.
    #[error("a console needs a tokio runtime to read in the background")]
    NoRuntime,

    /// A command in a remote shell ended with another code than 0.
    #[error("`{}` ended with code {code}; {}{}", brief(.command), printed(.output), remedy(.output))]
    Command {
        /// The command as given.
        command: String,
        /// Its exit code; 128 + n if signal n ended it.
        code: i32,
        /// What it wrote, escapes shown.
        output: String,
    },

    /// A guest has said that it has given up, such as with a panic of its kernel.
    #[error("the guest has given up: {}; {}", shortened(.text), said(.seen))]
    GaveUp {
        /// What it said, to the end of the line.
        text: String,
        /// The last lines that came.
        seen: String,
    },

    /// A guest has let nobody in.
    #[error("{what} was refused: {}; {}", shortened(.why), said(.seen))]
    Refused {
        /// Who or what it was: `login as "root"`, or the command for a shell of root's.
        what: String,
        /// What the guest said, to the end of the line, or that it wants a password.
        why: String,
        /// The last lines that came.
        seen: String,
    },

    /// The frame around the output of a command came mutilated, as when another process writes to the console at the same moment.
    #[error("the output of `{}` came mutilated: {problem}; {}", brief(.command), said(.seen))]
    Garbled {
        /// The command as given.
        command: String,
        /// What is missing.
        problem: String,
        /// The last lines that came.
        seen: String,
    },
}

/// What may help where the output says no more than that something is not allowed, or not there.
fn remedy(output: &str) -> &'static str {
    let lower = output.to_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    // What EPERM and EACCES are in words, and what programs say that look at their user.
    if says(&[
        "operation not permitted",
        "permission denied",
        "must be root",
        "are you root",
    ]) {
        "\nif the shell is not root's: Guest::root_by(\"sudo -i\") makes it so"
    // What ip(8), ifconfig(8) and the kernel say of a port.
    } else if says(&["cannot find device", "no such device"]) {
        "\n`ip -br link` shows what the guest calls its ports, and the hardware addresses by which to tell them apart"
    } else {
        ""
    }
}

fn waited_text(after: Duration, waited: Duration) -> String {
    let not_counted = waited.saturating_sub(after);
    if not_counted > after / 20 + Duration::from_millis(500) {
        let (all, not_counted) = (waited.as_secs_f64(), not_counted.as_secs_f64());
        format!(
            "{after:?} ({all:.1} s passed; for {not_counted:.1} s of them the host kept the machine from running)"
        )
    } else {
        format!("{after:?}")
    }
}

/// The text of an error when the guest has printed nothing: that fact, and things to try, in several lines.
pub const NOTHING_PRINTED: &str = "\
nothing was printed on the console. What to try:
- `console=ttyS0` on the command line of a Linux kernel
- `machine_type(\"pc,graphics=off\")` for SeaBIOS, iPXE and boot loaders
- another machine type, firmware or CPU model, if the guest does not start
- `start_cpu`, if the test has not called it";

/// The last lines that came. A console that has printed nothing at all has causes of its own.
fn said(seen: &str) -> String {
    match seen.trim().is_empty() {
        true => NOTHING_PRINTED.to_owned(),
        false => format!("last lines seen:\n{seen}"),
    }
}

fn printed(output: &str) -> String {
    match output.is_empty() {
        true => "it printed nothing".to_owned(),
        false => format!("its output:\n{output}"),
    }
}

/// A command as a message names it: a script by its first lines.
fn brief(command: &str) -> String {
    const LINES: usize = 5;
    let mut lines: Vec<_> = command.lines().take(LINES).map(shortened).collect();
    let more = command.lines().count().saturating_sub(LINES);
    if more > 0 {
        lines.push(format!("({more} lines more)").into());
    }
    lines.join("\n")
}

fn dropped_text(dropped: u64) -> String {
    match dropped {
        0 => String::new(),
        bytes => format!(" ({bytes} bytes before what is kept fell out of the window)"),
    }
}

impl Error {
    /// The same, where what was expected is better said in other words than the needle's.
    pub(crate) fn expecting(mut self, what: String) -> Self {
        if let Self::Timeout { expected, .. } | Self::Ended { expected, .. } = &mut self {
            *expected = what;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_guest_is_told_from_one_that_has_spoken_and_gets_advice() {
        let error = |seen: &str| {
            let (expected, after) = ("\"login: \"".to_owned(), Duration::from_secs(1));
            let (seen, dropped) = (seen.to_owned(), 0);
            Error::Timeout {
                expected,
                after,
                waited: after,
                seen,
                dropped,
            }
            .to_string()
        };
        let silent = error(" \n");
        for advice in [
            "nothing was printed",
            "console=ttyS0",
            "graphics=off",
            "start_cpu",
        ] {
            assert!(silent.contains(advice), "no {advice:?} in {silent}");
        }
        assert!(error("GRUB").ends_with("last lines seen:\nGRUB"));
    }

    #[test]
    fn a_long_command_and_a_silent_one_are_brief() {
        let error = Error::Command {
            command: format!("echo {}\n{}", "x".repeat(30_000), "true\n".repeat(100)),
            code: 1,
            output: String::new(),
        };
        let text = error.to_string();
        assert!(text.len() < 800, "{}", text.len());
        assert!(
            text.contains("(96 lines more)") && text.ends_with("it printed nothing"),
            "{text}"
        );
    }

    #[test]
    fn a_command_that_fails_for_want_of_root_or_of_a_port_names_the_remedy() {
        let failed = |output: &str| {
            let (command, output) = ("ip link set eth0 up".to_owned(), output.to_owned());
            Error::Command {
                command,
                code: 1,
                output,
            }
            .to_string()
        };
        let not_root = failed("RTNETLINK answers: Operation not permitted");
        assert!(
            not_root.ends_with("Guest::root_by(\"sudo -i\") makes it so"),
            "{not_root}"
        );
        let no_port = failed("Cannot find device \"eth0\"");
        assert!(no_port.ends_with("tell them apart"), "{no_port}");
        let other = failed("RTNETLINK answers: File exists");
        assert!(other.ends_with("File exists"), "{other}");
    }
}
