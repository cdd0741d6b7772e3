// SPDX-License-Identifier: GPL-3.0-or-later
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The hardware address of an Ethernet interface: six bytes, neither a group's address nor all zeros.
///
/// ```
/// use alpy_netns::MacAddr;
///
/// let mac: MacAddr = "52:54:00:12:34:5A".parse()?;
/// assert_eq!(mac.to_string(), "52:54:00:12:34:5a");
/// # Ok::<(), alpy_netns::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// An address from its bytes.
    ///
    /// # Errors
    /// A group's address or all zeros: no interface can have these.
    pub fn new(bytes: [u8; 6]) -> Result<Self> {
        let mac = Self(bytes);
        let fault = |reason: &str| {
            Err(Error::Mac {
                mac: mac.to_string(),
                reason: reason.to_owned(),
            })
        };
        if bytes[0] & 1 == 1 {
            fault("the lowest bit of the first byte says that it is a group's")
        } else if bytes == [0; 6] {
            fault("it is all zeros")
        } else {
            Ok(mac)
        }
    }

    /// The six bytes in the order of the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(parse(text).ok_or_else(|| Error::Mac {
            mac: text.to_owned(),
            reason: "six pairs of hexadecimal digits with colons between them are expected".to_owned(),
        })?)
    }
}

impl TryFrom<String> for MacAddr {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

fn parse(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut bytes {
        let pair = pairs.next()?;
        // from_str_radix takes a sign too.
        if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    pairs.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mac = MacAddr::new([0x52, 0x54, 0, 0xab, 0xcd, 0xef]).unwrap();
        assert_eq!(mac.to_string().parse::<MacAddr>().unwrap(), mac);
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:ef");
    }

    #[test]
    fn refuses_malformed_group_and_zero_addresses_and_names_them() {
        for bad in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "52-54-00-12-34-56",
            "52:54:00:12:34:+6",
            "52:54:00:12:34:zz",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
        ] {
            let message = bad.parse::<MacAddr>().unwrap_err().to_string();
            assert!(message.contains(&format!("{bad:?}")), "{message}");
        }
    }
}
