// SPDX-License-Identifier: GPL-3.0-or-later
//! What is printed, and how: for people or for programs, in colour on a terminal alone.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, interval_at};

/// After this time, what takes long says so.
const SLOW: Duration = Duration::from_secs(1);

/// How the user wants it.
pub struct Output {
    pub json: bool,
    colours: bool,
}

/// A colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Good,
    Bad,
    Weak,
}

impl Output {
    pub fn new(json: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colours: io::stdout().is_terminal() && !no_color,
        }
    }

    /// Prints a value as JSON, or what it is for people.
    pub fn show(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> io::Result<()> {
        print(&match self.json {
            true => format!("{}\n", serde_json::to_string_pretty(value)?),
            false => text(),
        })
    }

    /// The text in a colour, if there are any.
    pub fn colour(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => "32",
            Colour::Bad => "31",
            Colour::Weak => "33",
        };
        match self.colours {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }
}

/// To stdout, whose reader may have seen enough.
pub fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Awaits what may take long. On a terminal, a line says so from the first second on.
pub async fn progress<F: Future>(what: &str, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let terminal = io::stderr().is_terminal();
    let begin = Instant::now();
    let mut looks = interval_at(begin + SLOW, SLOW);
    loop {
        tokio::select! {
            biased;
            result = &mut future => {
                if terminal && begin.elapsed() >= SLOW {
                    eprint!("\r\x1b[K");
                }
                return result;
            }
            now = looks.tick(), if terminal => {
                eprint!("\r{what}... {} s", (now - begin).as_secs());
                let _ = io::stderr().flush();
            }
        }
    }
}

/// Columns of text. The last one is not filled up.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| {
        let cells = rows.iter().filter_map(|row: &Vec<String>| row.get(column));
        cells.map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

/// A time in the unit that fits.
pub fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds @ 7200..=172_799 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = table(&[
            row(&["TEST", "STATE"]),
            row(&["forward-ipv4", "held"]),
            row(&["ü", "x"]),
        ]);
        assert_eq!(text, "TEST          STATE\nforward-ipv4  held\nü             x\n");
    }

    #[test]
    fn a_time_has_one_unit() {
        let of = |seconds| time(Duration::from_secs(seconds));
        assert_eq!(
            [of(0), of(119), of(120), of(7200), of(172_800)],
            ["0 s", "119 s", "2 min", "2 h", "2 d"]
        );
    }
}
