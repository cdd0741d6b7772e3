// SPDX-License-Identifier: GPL-3.0-or-later
//! The first test of the README and of the documentation, as it stands there.

/// In lines as wide as those of the README.
#[rustfmt::skip]
mod first;

#[test]
fn the_readme_has_the_same() {
    // Users know what their machines have.
    let ours = "    alpy_need::need!(docker, qemu => Ok(()));\n";
    let first = include_str!("first.rs");
    assert!(first.contains(ours));
    let first = first.replace(ours, "");
    let (_licence, shown) = first.split_once('\n').expect("it has two lines");
    let readme = include_str!("../../../README.md");
    assert!(
        readme.contains(&format!("// tests/forwards.rs\n{shown}```\n")),
        "{shown}"
    );
    let mut documented = String::new();
    for line in shown.lines() {
        let line = format!("//! {line}");
        documented.push_str(line.trim_end());
        documented.push('\n');
    }
    let first_page = include_str!("../../../crates/alpy/src/lib.rs");
    assert!(
        first_page.contains(&format!("//! ```no_run\n{documented}//! ```\n")),
        "{documented}"
    );
}
