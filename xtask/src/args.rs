// SPDX-License-Identifier: GPL-3.0-or-later
//! The little of argument parsing that the tasks need.

use std::process::ExitCode;

use anyhow::Result;

use crate::stop;

/// The arguments of one task.
pub struct Args {
    rest: std::vec::IntoIter<String>,
    /// An option and its value, where they were given as `--option=value`.
    value: Option<String>,
    help: &'static str,
}

impl Args {
    /// Takes the arguments of the task that `help` describes.
    pub fn new(arguments: Vec<String>, help: &'static str) -> Self {
        Self {
            rest: arguments.into_iter(),
            value: None,
            help,
        }
    }

    /// The next argument; of `--option=value`, the option.
    pub fn next(&mut self) -> Result<Option<String>> {
        if let Some(value) = self.value.take() {
            return Err(self.error(&format!("unexpected value: {value}")));
        }
        let Some(argument) = self.rest.next() else {
            return Ok(None);
        };
        if argument.starts_with("--") {
            if let Some((option, value)) = argument.split_once('=') {
                self.value = Some(value.to_owned());
                return Ok(Some(option.to_owned()));
            }
        }
        Ok(Some(argument))
    }

    /// The value of the option that [`Args::next`] has just returned.
    pub fn value(&mut self, option: &str) -> Result<String> {
        self.value
            .take()
            .or_else(|| self.rest.next())
            .ok_or_else(|| self.error(&format!("{option} needs a value")))
    }

    /// All that is left, as it is.
    pub fn rest(self) -> Vec<String> {
        self.rest.collect()
    }

    /// Prints the help of the task.
    pub fn help(&self) -> ExitCode {
        println!("{}", self.help);
        ExitCode::SUCCESS
    }

    /// An error about an argument that the task does not know.
    pub fn unknown(&self, argument: &str) -> anyhow::Error {
        self.error(&format!("unknown argument: {argument}"))
    }

    /// An error about the arguments, with the help of the task.
    pub fn error(&self, message: &str) -> anyhow::Error {
        stop::before_start(format!("{message}\n\n{}", self.help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::new(words.iter().map(ToString::to_string).collect(), "the help")
    }

    #[test]
    fn takes_a_value_after_a_blank_or_an_equals_sign() {
        let mut args = args(&["--base", "a", "--base=b", "name"]);
        assert_eq!(args.next().unwrap().unwrap(), "--base");
        assert_eq!(args.value("--base").unwrap(), "a");
        assert_eq!(args.next().unwrap().unwrap(), "--base");
        assert_eq!(args.value("--base").unwrap(), "b");
        assert_eq!(args.next().unwrap().unwrap(), "name");
        assert_eq!(args.next().unwrap(), None);
    }

    #[test]
    fn refuses_a_value_that_no_option_takes_and_a_value_that_is_missing() {
        let mut given = args(&["--list=x"]);
        given.next().unwrap();
        assert!(
            given
                .next()
                .unwrap_err()
                .to_string()
                .starts_with("unexpected value: x\n")
        );

        let mut missing = args(&["--base"]);
        missing.next().unwrap();
        let error = missing.value("--base").unwrap_err();
        assert!(error.to_string().starts_with("--base needs a value\n"), "{error}");
        assert_eq!(error.downcast_ref::<stop::Stop>().unwrap().status, 2);
    }
}
