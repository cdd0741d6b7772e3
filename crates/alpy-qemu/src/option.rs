// SPDX-License-Identifier: GPL-3.0-or-later
//! The values of QEMU's options: `kind,key=value,...`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One value, as it grows.
pub(crate) struct OptionValue(OsString);

impl OptionValue {
    pub(crate) fn new(kind: &str) -> Self {
        Self(kind.into())
    }

    /// Adds `key=value`. A comma in the value is doubled, which is how QEMU's parser is told that it is no separator (QEMU,
    /// qemu(1), "Device options").
    pub(crate) fn set(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        if !self.0.is_empty() {
            self.0.push(",");
        }
        self.0.push(key);
        self.0.push("=");
        self.0.push(escaped(value.as_ref()));
        self
    }

    /// Adds `file=path`. The block layer reads `name:rest` as a protocol unless a slash comes before the colon, so a
    /// relative path gets one.
    pub(crate) fn file(self, path: &Path) -> Self {
        if path.is_absolute() {
            self.set("file", path)
        } else {
            self.set("file", PathBuf::from(".").join(path))
        }
    }
}

impl From<OptionValue> for OsString {
    fn from(value: OptionValue) -> Self {
        value.0
    }
}

fn escaped(value: &OsStr) -> OsString {
    let mut bytes = Vec::with_capacity(value.len());
    for &byte in value.as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_commas_in_values() {
        let value = OptionValue::new("filter-dump").set("file", "/tmp/a,b,,c");
        assert_eq!(OsString::from(value), "filter-dump,file=/tmp/a,,b,,,,c");
    }

    #[test]
    fn keeps_bytes_that_are_no_utf8() {
        let value = OptionValue::new("").set("file", OsStr::from_bytes(b"\xff,"));
        assert_eq!(OsString::from(value).as_bytes(), b"file=\xff,,");
    }

    #[test]
    fn keeps_a_colon_in_a_relative_path_from_being_a_protocol() {
        let value = OptionValue::new("").file(Path::new("nbd:disk.img"));
        assert_eq!(OsString::from(value), "file=./nbd:disk.img");
    }
}
