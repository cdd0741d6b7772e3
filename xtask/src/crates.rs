// SPDX-License-Identifier: GPL-3.0-or-later
//! Whether the README tells the truth about what each crate brings along: a dependency more is a decision, not an accident.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};

use crate::process::{self, Kind};
use crate::workspace::{Workspace, cargo};

/// Compares the table of the README with the trees of the crates.
pub fn check(workspace: &Workspace) -> Result<()> {
    let path = workspace.root.join("README.md");
    let readme = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let rows: Vec<(&str, usize)> = readme.lines().filter_map(row).collect();
    ensure!(!rows.is_empty(), "README.md has no table of crates");
    for (name, said) in rows {
        let count = count(name)?;
        ensure!(
            count == said,
            "README.md says that {name} has {said} crates in its tree, and it has {count}"
        );
    }
    Ok(())
}

/// The name and the number in a row as "| `alpy-qmp` | what it is | 26 |".
fn row(line: &str) -> Option<(&str, usize)> {
    let cells: Vec<&str> = line.split('|').map(str::trim).collect();
    let &["", name, _, number, ""] = cells.as_slice() else {
        return None;
    };
    let name = name.strip_prefix('`')?.strip_suffix('`')?;
    Some((name, number.parse().ok()?))
}

/// The crates in the tree of one, itself among them.
fn count(name: &str) -> Result<usize> {
    let mut tree = cargo();
    tree.args([
        "tree",
        "--locked",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--no-dedupe",
        "-p",
        name,
    ]);
    let tree = process::output(tree, Kind::Group)?.success("cargo tree")?;
    Ok(tree.lines().collect::<BTreeSet<_>>().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rows_and_nothing_else() {
        assert_eq!(
            row("| `alpy-qmp` | a client, of QMP | 26 |"),
            Some(("alpy-qmp", 26))
        );
        for other in [
            "| crate | what | crates in its tree |",
            "|---|---|---|",
            "| `a` | 26 |",
            "",
            "26",
        ] {
            assert_eq!(row(other), None);
        }
    }
}
