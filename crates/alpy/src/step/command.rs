// SPDX-License-Identifier: GPL-3.0-or-later
//! A command of a guest's shell as a step.

use std::time::Instant;

use alpy_console::CommandEnd;
use tracing::debug;

use super::{Kind, STEPS, StepEnd};

/// The target of the log lines. Their level is DEBUG because a test may run hundreds of commands.
pub(crate) const TARGET: &str = "alpy::command";

/// The most commands that are recorded: a test may poll its guest.
pub(crate) const RECORDED: usize = 500;

/// The most characters of a command that its step shows.
const LONGEST: usize = 120;

/// Begins a step with this text for a command. The returned function ends the step.
pub(crate) fn on_command(text: String) -> impl FnOnce(CommandEnd) + Send + 'static {
    debug!(target: TARGET, "{text}...");
    let began = Instant::now();
    let steps = STEPS.try_with(std::sync::Arc::clone).ok();
    let number = steps.as_ref().map(|steps| steps.begin(&text, Kind::Command));
    move |end| {
        let (end, exit_code) = match end {
            CommandEnd::Done(code) => (StepEnd::Done, code),
            CommandEnd::Failed(code) => (StepEnd::Failed, code),
            _ if std::thread::panicking() => (StepEnd::Failed, None),
            _ => (StepEnd::Cancelled, None),
        };
        if let (Some(steps), Some(number)) = (steps, number) {
            steps.end(number, end, exit_code, began.elapsed());
        }
        let code = exit_code.map_or_else(String::new, |code| format!("{CODE}{code}"));
        debug!(target: TARGET, "{text}... {end}{code}");
    }
}

/// Comes before the exit code in the log line of a command's end.
pub(crate) const CODE: &str = ", exit code ";

/// The text of a command's step: `$` and the first line that is not empty, cut if it is long.
pub(crate) fn text_of(command: &str) -> String {
    let mut lines = command.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let mut text = String::from("$ ");
    for (count, character) in first.chars().enumerate() {
        if count == LONGEST {
            text.push_str("...");
            break;
        }
        match character.is_control() {
            true => text.extend(character.escape_default()),
            false => text.push(character),
        }
    }
    match lines.count() {
        0 => text,
        1 => text + " (and 1 more line)",
        more => text + &format!(" (and {more} more lines)"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::step::Steps;

    /// A command that ends so.
    fn run(text: &str, end: CommandEnd) {
        on_command(format!("$ {text}"))(end);
    }

    #[test]
    fn a_script_is_its_first_line_and_a_long_line_its_beginning() {
        for (command, text) in [
            ("ip link", "$ ip link"),
            ("\n  set -e\n\nip link\n", "$ set -e (and 1 more line)"),
            ("a\nb\nc", "$ a (and 2 more lines)"),
            ("printf '\x1b[31m\t'", "$ printf '\\u{1b}[31m\\t'"),
            ("", "$ "),
        ] {
            assert_eq!(text_of(command), text);
        }
        let long = text_of(&"ü".repeat(30_000));
        assert_eq!(long, format!("$ {}...", "ü".repeat(LONGEST)));
    }

    #[tokio::test]
    async fn a_command_is_a_step_within_the_step_around_it_with_its_exit_code() {
        let steps = Arc::new(Steps::default());
        let test = async {
            run("true", CommandEnd::Done(Some(0)));
            let check = async {
                run("test -e x", CommandEnd::Done(Some(1)));
                run("ping", CommandEnd::Failed(Some(2)));
                Err::<(), _>("no")
            };
            crate::step!("Check", check).await
        };
        steps.scope(test).await.unwrap_err();
        let records = steps.records();
        let short = |step: &super::super::StepRecord| {
            let end = step.ended.map(|(_, end)| end);
            (
                step.text.clone(),
                step.within,
                end,
                step.is_command,
                step.exit_code,
            )
        };
        let short: Vec<_> = records.iter().map(short).collect();
        assert_eq!(
            short,
            [
                ("$ true".to_owned(), None, Some(StepEnd::Done), true, Some(0)),
                ("Check".to_owned(), None, Some(StepEnd::Failed), false, None),
                (
                    "$ test -e x".to_owned(),
                    Some(2),
                    Some(StepEnd::Done),
                    true,
                    Some(1)
                ),
                ("$ ping".to_owned(), Some(2), Some(StepEnd::Failed), true, Some(2)),
            ]
        );
        assert_eq!(steps.where_it_is().as_deref(), Some("Check > $ ping"));
        let times = ["   0.0 s  $ true", "   0.0 s  Check"];
        assert_eq!(steps.times(), times);
    }

    #[tokio::test]
    async fn a_command_that_looks_for_the_reason_leaves_the_failure_where_it_was() {
        let steps = Arc::new(Steps::default());
        let test = async {
            crate::step!("Ping", async { Err::<(), _>("no") })
                .await
                .unwrap_err();
            run("ip route", CommandEnd::Done(Some(0)));
            run("dmesg", CommandEnd::Failed(Some(1)));
        };
        steps.scope(test).await;
        assert_eq!(steps.where_it_is().as_deref(), Some("Ping"));
    }

    #[tokio::test]
    async fn a_command_whose_failure_the_test_took_is_not_where_it_failed() {
        let steps = Arc::new(Steps::default());
        let test = async {
            let check = async {
                run("test -e x", CommandEnd::Failed(Some(1)));
                Ok::<_, &str>(())
            };
            crate::step!("Check", check).await.unwrap();
        };
        steps.scope(test).await;
        assert_eq!(steps.where_it_is(), None);
        assert_eq!(steps.last_ended().as_deref(), Some("Check"));
        steps
            .scope(async { run("false", CommandEnd::Failed(Some(1))) })
            .await;
        assert_eq!(steps.where_it_is().as_deref(), Some("$ false"));
        steps
            .scope(async { run("true", CommandEnd::Done(Some(0))) })
            .await;
        assert_eq!(steps.where_it_is(), None);
        assert_eq!(steps.last_ended().as_deref(), Some("$ true"));
    }

    #[tokio::test]
    async fn a_command_under_way_is_where_the_test_is() {
        let steps = Arc::new(Steps::default());
        let check = async {
            let end = on_command("$ sleep 60".to_owned());
            std::future::pending::<()>().await;
            end(CommandEnd::Done(Some(0)));
            Ok::<_, &str>(())
        };
        let mut check = Box::pin(steps.scope(crate::step!("Check", check)));
        assert!(futures_util::poll!(&mut check).is_pending());
        assert_eq!(steps.where_it_is().as_deref(), Some("Check > $ sleep 60"));
    }

    #[test]
    fn the_time_went_to_long_commands_and_to_many_short_ones_together() {
        let steps = Steps::default();
        let took = |kind, text: &str, seconds: f64| {
            let number = steps.begin(text, kind);
            steps.end(number, StepEnd::Done, None, Duration::from_secs_f64(seconds));
        };
        took(Kind::Step, "Boot", 9.0);
        for number in 0..40 {
            took(Kind::Command, &format!("$ test {number}"), 0.1);
        }
        took(Kind::Command, "$ sleep 2", 2.0);
        took(Kind::Command, "$ true", 0.0);
        let times = [
            "   9.0 s  Boot",
            "   4.0 s  40 commands, the last of them: $ test 39",
            "   2.0 s  $ sleep 2",
            "   0.0 s  $ true",
        ];
        assert_eq!(steps.times(), times);
    }

    #[tokio::test]
    async fn the_longest_commands_of_a_step_are_told_of_with_it() {
        let steps = Arc::new(Steps::default());
        let measure = async {
            for seconds in [3, 1, 2, 0, 5] {
                let number = steps.begin(&format!("$ sleep {seconds}"), Kind::Command);
                steps.end(number, StepEnd::Done, Some(0), Duration::from_secs(seconds));
            }
            Ok::<_, &str>(())
        };
        let inner = crate::step!("Inner", measure);
        steps.scope(crate::step!("Measure", inner)).await.unwrap();
        let times = [
            "   0.0 s  Measure",
            "   3.0 s    of which $ sleep 3",
            "   2.0 s    of which $ sleep 2",
            "   5.0 s    of which $ sleep 5",
        ];
        assert_eq!(steps.times(), times);
    }

    #[test]
    fn thousands_of_commands_leave_room_for_the_steps_after_them() {
        let steps = Steps::default();
        for _ in 0..RECORDED + 7 {
            let number = steps.begin("$ true", Kind::Command);
            steps.end(number, StepEnd::Done, Some(0), Duration::ZERO);
        }
        let number = steps.begin("Ping", Kind::Step);
        steps.end(number, StepEnd::Failed, None, Duration::ZERO);
        let records = steps.records();
        assert_eq!((records.len(), steps.commands_left_out()), (RECORDED + 1, 7));
        let last = records.last().unwrap();
        assert_eq!(
            (last.text.as_str(), last.ended.unwrap().1),
            ("Ping", StepEnd::Failed)
        );
    }
}
