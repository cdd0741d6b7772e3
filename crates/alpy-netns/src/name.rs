// SPDX-License-Identifier: GPL-3.0-or-later
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The name of a network interface, such as `eth0`: one that the kernel takes as it is.
///
/// ```
/// use alpy_netns::InterfaceName;
///
/// let name: InterfaceName = "eth0".parse()?;
/// assert_eq!(name.as_str(), "eth0");
/// let error = InterfaceName::new("a-name-too-long0").unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "bad interface name \"a-name-too-long0\": 16 bytes long, at most 15 are possible"
/// );
/// # Ok::<(), alpy_netns::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The longest name in bytes: `IFNAMSIZ`, less the zero at the end (netdevice(7)).
    pub const MAX_BYTES: usize = 15;

    /// A name, if the kernel would take it as it is.
    ///
    /// # Errors
    /// What `dev_valid_name()` in the kernel's net/core/dev.c refuses (length, `.`, `..`, `/`, `:`, white space), `all` and
    /// `default`, which would be folders of sysctl, and `%`, which the kernel takes for a pattern. Of other alphabets only
    /// ASCII is taken.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        match fault(&name) {
            None => Ok(Self(name)),
            Some(reason) => Err(Error::Name { name, reason }),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InterfaceName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.0
    }
}

fn fault(name: &str) -> Option<String> {
    let forbidden = |c: &char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%');
    if name.is_empty() {
        Some("it is empty".to_owned())
    } else if name.len() > InterfaceName::MAX_BYTES {
        let (length, most) = (name.len(), InterfaceName::MAX_BYTES);
        Some(format!("{length} bytes long, at most {most} are possible"))
    } else if matches!(name, "." | ".." | "all" | "default") {
        Some("the kernel reserves it".to_owned())
    } else {
        name.chars()
            .find(forbidden)
            .map(|c| format!("{c:?} is not allowed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_fifteen_bytes_and_refuses_sixteen() {
        assert!(InterfaceName::new("x".repeat(15)).is_ok());
        let message = InterfaceName::new("x".repeat(16)).unwrap_err().to_string();
        assert!(message.contains(&"x".repeat(16)), "{message}");
    }

    #[test]
    fn refuses_what_the_kernel_refuses_and_names_it() {
        for bad in [
            "", ".", "..", "a/b", "a b", "a:b", "a\tb", "a\u{a0}b", "tap%d", "all", "default", "a\0b",
        ] {
            let message = InterfaceName::new(bad).unwrap_err().to_string();
            assert!(message.contains(&format!("{bad:?}")), "{message}");
        }
    }

    #[test]
    fn is_checked_when_it_comes_over_the_wire() {
        assert!(serde_json::from_str::<InterfaceName>("\"eth0\"").is_ok());
        let error = serde_json::from_str::<InterfaceName>("\"a/b\"").unwrap_err();
        assert!(error.to_string().contains("a/b"), "{error}");
    }
}
