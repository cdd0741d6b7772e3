// SPDX-License-Identifier: GPL-3.0-or-later
//! Messages in the words of a topology file: the libraries name their own methods and types.

/// What the libraries and the parser say, and the words of a file. Longer ones come before those that they begin with.
const WORDS: [(&str, &str); 21] = [
    ("TestbedBuilder::machine", "table [[machine]]"),
    ("Disk::format(\"qcow2\")", "format = \"qcow2\""),
    ("machine_type(\"q35\")", "machine_type = \"q35\""),
    ("files of your own as Firmware::SecureBoot", "firmware = \"uefi\""),
    ("Container::capability", "the key `capabilities`"),
    ("Container::stdin()", "a command that reads no input"),
    ("Machine::memory_mib", "the key `memory_mib`"),
    ("Machine::cpu_model", "the key `cpu_model`"),
    ("Machine::cpus", "the key `cpus`"),
    ("unknown field", "unknown key"),
    ("missing field", "missing key"),
    ("duplicate field", "duplicate key"),
    ("unknown variant", "unknown value"),
    ("a borrowed string", "a text"),
    ("path string", "a path, as a text"),
    ("an array of length 2", "a list of two numbers"),
    ("a sequence", "a list"),
    ("a map", "a table"),
    ("a boolean", "true or false"),
    ("expected a string", "expected a text"),
    ("invalid type: string", "invalid type: text"),
];

/// Types of numbers.
const NUMBERS: [&str; 3] = ["usize", "u32", "u64"];

/// A message in the words of the file.
pub fn in_words(message: &str) -> String {
    let mut text = message.to_owned();
    for (theirs, ours) in WORDS {
        text = text.replace(theirs, ours);
    }
    for number in NUMBERS {
        text = text.replace(&format!("expected {number}"), "expected a whole number from 0");
    }
    // `struct MachineTable`, as serde calls what it reads a table into.
    while let Some(begin) = text.find("struct ") {
        let name = text[begin + "struct ".len()..]
            .find(|character: char| !character.is_alphanumeric())
            .map_or(text.len(), |length| begin + "struct ".len() + length);
        text.replace_range(begin..name, "a table");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_file() {
        for (theirs, ours) in [
            (
                "remedy: another number, or one more TestbedBuilder::machine",
                "remedy: another number, or one more table [[machine]]",
            ),
            (
                "invalid type: string \"x\", expected struct MachineTable",
                "invalid type: text \"x\", expected a table",
            ),
            (
                "invalid value: integer `-1`, expected u32",
                "invalid value: integer `-1`, expected a whole number from 0",
            ),
            (
                "remedy: no format at all, or Disk::format(\"qcow2\")",
                "remedy: no format at all, or format = \"qcow2\"",
            ),
        ] {
            assert_eq!(in_words(theirs), ours);
        }
    }
}
