// SPDX-License-Identifier: GPL-3.0-or-later
//! The ranges of user and group ids that a rootless engine maps into its containers, see subuid(5).

use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{User, geteuid};

use crate::stop;

/// What newuidmap needs to map the ids of an image.
const COUNT: u64 = 65_536;

/// Ends with the command that gives this user ranges, unless he has them.
pub fn ensure() -> Result<()> {
    let uid = geteuid();
    let name = User::from_uid(uid)?
        .with_context(|| format!("user {uid} has no name"))?
        .name;
    let [users, groups] = files()?;
    let uid = uid.to_string();
    if has_range(&users, &name, &uid) && has_range(&groups, &name, &uid) {
        return Ok(());
    }
    let arguments = range_arguments(&users, &groups).join(" ");
    Err(stop::before_start(format!(
        "user {name} has no subordinate ids for a rootless engine; remedy: sudo usermod {arguments} {name}"
    )))
}

/// Arguments of usermod(8) that give a user the next free ranges.
pub fn arguments() -> Result<[String; 4]> {
    let [users, groups] = files()?;
    Ok(range_arguments(&users, &groups))
}

/// Whether this user has a range of both kinds.
pub fn has(name: &str, uid: &str) -> Result<bool> {
    let [users, groups] = files()?;
    Ok(has_range(&users, name, uid) && has_range(&groups, name, uid))
}

/// The ranges of user ids of this user: the first and the number.
pub fn ranges(name: &str, uid: &str) -> Result<Vec<(u64, u64)>> {
    let [users, _] = files()?;
    Ok(entries(&users)
        .filter(|(owner, ..)| *owner == name || *owner == uid)
        .map(|(_, first, n)| (first, n))
        .collect())
}

fn files() -> Result<[String; 2]> {
    let read = |path: &str| match fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.with_context(|| format!("read {path}")),
    };
    Ok([read("/etc/subuid")?, read("/etc/subgid")?])
}

/// Lines such as `alice:100000:65536`.
fn entries(text: &str) -> impl Iterator<Item = (&str, u64, u64)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        Some((
            fields.next()?,
            fields.next()?.parse().ok()?,
            fields.next()?.parse().ok()?,
        ))
    })
}

fn has_range(text: &str, name: &str, uid: &str) -> bool {
    entries(text).any(|(owner, _, count)| (owner == name || owner == uid) && count >= COUNT)
}

fn range_arguments(users: &str, groups: &str) -> [String; 4] {
    let end = entries(users)
        .chain(entries(groups))
        .map(|(_, first, count)| first + count)
        .max();
    let first = end.unwrap_or(0).max(100_000);
    let range = format!("{first}-{}", first + COUNT - 1);
    [
        "--add-subuids".to_owned(),
        range.clone(),
        "--add-subgids".to_owned(),
        range,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_user_by_name_and_by_number() {
        let text = "alice:100000:65536\n1002:165536:65536\nbob:300000:10\n";
        assert!(has_range(text, "alice", "1001"));
        assert!(has_range(text, "carol", "1002"));
        assert!(!has_range(text, "bob", "1003"), "ten ids are too few");
        assert!(!has_range(text, "dave", "1004"));
    }

    #[test]
    fn proposes_a_range_that_nobody_has() {
        let first = ["--add-subuids", "100000-165535", "--add-subgids", "100000-165535"];
        assert_eq!(range_arguments("", ""), first);
        let next = range_arguments("alice:100000:65536\n", "x:200000:65536\n");
        assert_eq!(next[1], "265536-331071");
    }
}
