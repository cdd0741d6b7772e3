// SPDX-License-Identifier: GPL-3.0-or-later
//! The run that a word means.

use std::env;
use std::path::{Path, PathBuf};

use alpy::runs::{self, RunInfo, RunState};
use anyhow::Result;

use crate::failure::{absent, usage};

/// The runs that can be seen.
pub struct Runs {
    base: PathBuf,
}

impl Runs {
    /// Those under way anywhere, and those that have ended below a base, or below the usual one.
    pub fn below(base: Option<PathBuf>) -> Self {
        Self {
            base: base.unwrap_or_else(usual_base),
        }
    }

    /// The base of evidence directories.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// All of them, those under way first.
    pub fn all(&self) -> Vec<RunInfo> {
        let mut all = runs::under_way();
        for run in runs::below(&self.base) {
            let same = |other: &RunInfo| other.dir.canonicalize().ok() == run.dir.canonicalize().ok();
            if !all.iter().any(same) {
                all.push(run);
            }
        }
        all
    }

    /// The one of this name, or in this directory: one below the base, for that is where the user is, else one under way elsewhere.
    pub fn get(&self, test: &str) -> Result<RunInfo> {
        if test.contains('/') {
            return runs::read(Path::new(test))
                .map_err(|error| absent(format!("{:#}", anyhow::Error::from(error))));
        }
        choose(self.all(), test, &self.base)
    }

    /// The same, which has to be under way.
    pub fn get_under_way(&self, test: &str) -> Result<RunInfo> {
        let run = self.get(test)?;
        match run.state {
            RunState::UnderWay => Ok(run),
            state => Err(absent(format!(
                "{test} is not under way, but {state}; its evidence: {}",
                run.dir.display()
            ))),
        }
    }
}

fn choose(all: Vec<RunInfo>, test: &str, base: &Path) -> Result<RunInfo> {
    let known: Vec<_> = all.iter().map(RunInfo::name).collect();
    let is_below = |run: &RunInfo| {
        let parent = run.dir.parent().and_then(|parent| parent.canonicalize().ok());
        parent.is_some() && parent == base.canonicalize().ok()
    };
    let named = all.into_iter().filter(|run| run.name() == test);
    let (below, elsewhere): (Vec<_>, Vec<_>) = named.partition(is_below);
    let mut named = if below.is_empty() { elsewhere } else { below };
    if named.is_empty() {
        return Err(absent(format!(
            "no test {test:?}, neither under way nor below {}; there {}",
            base.display(),
            match known.is_empty() {
                true => "is none".to_owned(),
                false => format!("are: {}", known.join(", ")),
            }
        )));
    }
    if named.len() > 1 {
        let dirs: Vec<_> = named.iter().map(|run| run.dir.display().to_string()).collect();
        let dirs = dirs.join(", ");
        return Err(usage(format!(
            "several tests {test:?}; give the path of one: {dirs}"
        )));
    }
    Ok(named.remove(0))
}

fn usual_base() -> PathBuf {
    if let Some(target) = env::var_os("CARGO_TARGET_DIR") {
        return PathBuf::from(target).join("alpy");
    }
    let here = env::current_dir().unwrap_or_default();
    let bases = here.ancestors().map(|dir| dir.join("target/alpy"));
    let first = bases.into_iter().find(|base| base.is_dir());
    first.unwrap_or_else(|| here.join("target/alpy"))
}

/// The error about a link that a run does not have.
pub fn no_link(run: &RunInfo, index: usize) -> anyhow::Error {
    absent(format!(
        "{} has no link {index}: it has {}, counted from 0",
        run.name(),
        run.links.len()
    ))
}

/// The number in `node0`, `link0` or `0`.
pub fn number(word: &str, text: &str) -> Result<usize> {
    let number = text.strip_prefix(word).unwrap_or(text);
    number.parse().map_err(|_| {
        usage(format!(
            "{text:?} is no {word}; give its number, such as 0 or {word}0"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_a_number_with_or_without_its_word() {
        assert_eq!(number("node", "node12").unwrap(), 12);
        assert_eq!(number("node", "3").unwrap(), 3);
        let error = number("link", "node1").unwrap_err().to_string();
        assert!(error.contains("\"node1\" is no link"), "{error}");
    }

    #[test]
    fn a_test_that_is_not_there_is_told_with_those_that_are() {
        let error = choose(Vec::new(), "nat", Path::new("/t/alpy")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no test \"nat\", neither under way nor below /t/alpy; there is none"
        );
    }
}
