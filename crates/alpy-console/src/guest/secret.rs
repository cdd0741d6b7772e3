// SPDX-License-Identifier: GPL-3.0-or-later
//! A password.

use std::fmt;

/// A text that is typed, and shown nowhere.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Secret(String);

impl Secret {
    /// What is to be typed.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<password>")
    }
}

#[cfg(test)]
mod tests {
    use crate::Guest;

    #[test]
    fn a_guest_does_not_show_its_passwords() {
        let guest = Guest::debian()
            .password("open sesame")
            .root_password("close sesame");
        for shown in [format!("{guest:?}"), format!("{guest:#?}")] {
            assert!(!shown.contains("sesame"), "{shown}");
            // That there is one may be known.
            assert_eq!(shown.matches("<password>").count(), 2, "{shown}");
        }
        let other = Guest::debian().password("sesame").root_password("close sesame");
        assert_ne!(guest, other);
    }
}
