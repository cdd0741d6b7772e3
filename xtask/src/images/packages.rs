// SPDX-License-Identifier: GPL-3.0-or-later
//! Which system the packages are from. Each way to get them has a module of its own.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};

/// Versions of packages by name.
pub type Versions = BTreeMap<String, String>;

/// A system that packages are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Debian 12 or later.
    Debian,
    /// Ubuntu.
    Ubuntu,
    /// Alpine Linux.
    Alpine,
}

impl System {
    /// The system of this host and its release, by os-release(5).
    pub fn of_host() -> Result<(Self, String)> {
        let path = "/etc/os-release";
        of(&fs::read_to_string(path).with_context(|| format!("read {path}"))?)
    }
}

fn of(release: &str) -> Result<(System, String)> {
    let field = |name: &str| {
        let value = release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().trim_matches('"')
    };
    let name = field("PRETTY_NAME");
    let system = match field("ID") {
        "debian" => System::Debian,
        "ubuntu" => System::Ubuntu,
        _ => bail!("the packages of {name} are none that the recipes know: use `--base alpine`"),
    };
    Ok((system, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_is_what_os_release_says() {
        let debian = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(
            of(debian).unwrap(),
            (System::Debian, "Debian GNU/Linux 12 (bookworm)".to_owned())
        );
        let ubuntu = "PRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\nID=ubuntu\nID_LIKE=debian\n";
        assert_eq!(of(ubuntu).unwrap().0, System::Ubuntu);
    }

    #[test]
    fn an_unknown_system_is_named_with_the_way_out() {
        let error = of("PRETTY_NAME=\"Arch Linux\"\nID=arch\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("Arch Linux") && error.contains("--base alpine"),
            "{error}"
        );
    }
}
