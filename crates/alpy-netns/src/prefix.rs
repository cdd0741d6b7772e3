// SPDX-License-Identifier: GPL-3.0-or-later
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// An IP address with the length of its network's prefix, such as `192.168.0.1/24` or `fd00::1/64`.
///
/// ```
/// use alpy_netns::IpPrefix;
///
/// let prefix: IpPrefix = "192.168.0.1/24".parse()?;
/// assert_eq!(prefix.network().to_string(), "192.168.0.0/24");
/// # Ok::<(), alpy_netns::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

impl IpPrefix {
    /// An address and the length of its prefix in bits.
    ///
    /// # Errors
    /// More than 32 bits for IPv4, more than 128 for IPv6.
    pub fn new(address: IpAddr, length: u8) -> Result<Self> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length > most {
            let reason = format!("{length} bits are more than the {most} of an address");
            return Err(Error::Prefix {
                prefix: format!("{address}/{length}"),
                reason,
            });
        }
        Ok(Self { address, length })
    }

    /// The address, with all its bits.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of the prefix in bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// The network that the address is in: the same, with zeros after the prefix.
    #[must_use]
    pub fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        Self {
            address,
            length: self.length,
        }
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for IpPrefix {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let fault = |reason: &str| Error::Prefix {
            prefix: text.to_owned(),
            reason: reason.to_owned(),
        };
        let (address, length) = text
            .split_once('/')
            .ok_or_else(|| fault("an address, a slash and a number of bits are expected"))?;
        let address = address
            .parse()
            .map_err(|_| fault("what is before the slash is not an IP address"))?;
        // u8's own parser takes a sign too.
        let digits = !length.is_empty() && length.bytes().all(|digit| digit.is_ascii_digit());
        let length = (digits.then(|| length.parse().ok()).flatten())
            .ok_or_else(|| fault("what is after the slash is not a number of bits"))?;
        Self::new(address, length)
    }
}

impl TryFrom<String> for IpPrefix {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<IpPrefix> for String {
    fn from(prefix: IpPrefix) -> Self {
        prefix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in [
            "192.168.0.1/24",
            "0.0.0.0/0",
            "10.0.0.1/32",
            "fd00::1/64",
            "::/0",
            "::1/128",
        ] {
            assert_eq!(text.parse::<IpPrefix>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_bad_prefixes_and_names_them() {
        for bad in [
            "",
            "192.168.0.1",
            "192.168.0.1/",
            "192.168.0.1/33",
            "192.168.0.1/+8",
            "192.168.0.1/256",
            "192.168.0/24",
            "192.168.0.256/24",
            "fd00::1/129",
            "fd00:::1/64",
            "node0/24",
        ] {
            let message = bad.parse::<IpPrefix>().unwrap_err().to_string();
            assert!(message.contains(&format!("{bad:?}")), "{message}");
        }
    }

    #[test]
    fn a_network_has_no_host_bits() {
        for (address, network) in [
            ("192.168.5.77/24", "192.168.5.0/24"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("fd00:1:2:3:4::1/64", "fd00:1:2:3::/64"),
            ("fd00::1/0", "::/0"),
            ("fd00::1/128", "fd00::1/128"),
        ] {
            let prefix: IpPrefix = address.parse().unwrap();
            assert_eq!(prefix.network().to_string(), network);
        }
    }
}
