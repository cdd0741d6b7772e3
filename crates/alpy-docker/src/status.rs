// SPDX-License-Identifier: GPL-3.0-or-later
//! How a container ended.

use std::fmt;

use nix::sys::signal::Signal;

/// How the process of a container ended.
///
/// An engine reports one number: the exit code, or 128 and the number of the signal that ended the process. That is the
/// shell's convention, and nothing tells the two apart: a program may exit with 143 of its own will.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExitStatus {
    code: i64,
}

impl ExitStatus {
    pub(crate) fn new(code: i64) -> Self {
        Self { code }
    }

    /// The number as the engine reports it.
    pub fn code(self) -> i64 {
        self.code
    }

    /// True for an exit code of 0.
    pub fn success(self) -> bool {
        self.code == 0
    }

    /// The name of the signal that the number stands for, such as `SIGTERM` for 143.
    pub fn signal(self) -> Option<&'static str> {
        let number = i32::try_from(self.code.checked_sub(128)?).ok()?;
        Signal::try_from(number).ok().map(Signal::as_str)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.code)?;
        match self.signal() {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_above_128_names_its_signal() {
        assert_eq!(ExitStatus::new(143).signal(), Some("SIGTERM"));
        assert_eq!(ExitStatus::new(137).to_string(), "exit code 137 (SIGKILL)");
    }

    #[test]
    fn other_numbers_name_no_signal() {
        for code in [0, 1, 127, 128, 193, 255, -1, i64::MIN, i64::MAX] {
            assert_eq!(ExitStatus::new(code).signal(), None, "{code}");
        }
        assert_eq!(ExitStatus::new(3).to_string(), "exit code 3");
    }
}
