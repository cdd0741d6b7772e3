// SPDX-License-Identifier: GPL-3.0-or-later
//! What is typed at a shell, and how what it prints is read.

use std::hash::{BuildHasher, RandomState};

/// The longest command that is typed as it is. BusyBox's line editor can be built for lines of 255 characters.
const TYPED: usize = 160;
/// The longest line of a content. A terminal takes 4096, POSIX promises 255.
const LINE: usize = 200;
/// How much is typed before the far end says that it read it; half of a terminal's buffer.
const BLOCK: usize = 2048;

/// What a shell says that reads [`functions`], and what the echo of [`READ_FUNCTIONS`] does not show.
pub(super) const READY: &str = "<alpy+";

/// What is typed first: it reads lines up to an empty one, and makes functions of them. A line editor, which handles each key by
/// itself, would take much longer over them.
pub(super) const READ_FUNCTIONS: &str = "alpy_s=;printf '<%s' alpy+;while IFS= read -r alpy_l&&[ \"$alpy_l\" ];\
     do alpy_s=$alpy_s$alpy_l;done;eval \"$alpy_s\"";

/// The command that the functions are tried with.
pub(super) const TRIAL: &str = ":";

/// The functions that a remote shell needs, and a trial of them as the command with this id, in lines for [`READ_FUNCTIONS`].
///
/// `alpy ID COMMAND` runs a command between `<ID|` and `|ID>CODE.`. The echo of the line that calls it shows neither, however
/// a line editor wraps it.
///
/// `alpy_get` decodes lines to its output, each a format of `printf` behind a `#`, until `: end` and the number of characters in
/// those lines. At its start and at `: more` it says `<ID+`, at its end `<ID|` once more, since only then the output begins: what
/// went wrong, if anything did. Should something kill it, the shell takes the rest of what was typed for comments.
pub(super) fn functions(quiet_kernel: bool, id: &str) -> String {
    let (quiet, restore) = if quiet_kernel {
        (
            "read -r alpy_k alpy_r </proc/sys/kernel/printk;echo 1 >/proc/sys/kernel/printk;",
            "echo $alpy_k >/proc/sys/kernel/printk;",
        )
    } else {
        ("", "")
    };
    let functions = format!(
        "alpy(){{ alpy_i=$1;{quiet}\
         echo \"<$1|\";(eval \"$2\")2>&1;printf '\\n|%s>%d.\\n' $1 $?;\
         {restore}}};\
         alpy_get(){{ echo \"<$alpy_i+\" >&2;alpy_n=0 alpy_e=0;while IFS= read -r alpy_l;do case $alpy_l in \
         ': end '*)echo \"<$alpy_i|\" >&2;alpy_l=${{alpy_l#: end }};break;;': more')echo \"<$alpy_i+\" >&2;;\
         *)alpy_n=$((alpy_n+${{#alpy_l}}));printf \"${{alpy_l#?}}\"||alpy_e=1;;esac;done;\
         [ $alpy_n = \"$alpy_l\" ]||{{ echo \"$alpy_n of $alpy_l characters came\" >&2;return 1;}};\
         [ $alpy_e = 0 ]||{{ echo \"not all could be written\" >&2;return 1;}};}};\
         alpy {id} {TRIAL} </dev/null"
    );
    let mut lines = String::new();
    for line in functions.as_bytes().chunks(LINE) {
        lines.extend(line.iter().map(|byte| char::from(*byte)));
        lines.push('\n');
    }
    lines.push('\n');
    lines
}

/// A name for one command that nothing on the console has by chance.
pub(crate) fn id() -> String {
    format!("{:08x}", RandomState::new().hash_one(()) & 0xffff_ffff)
}

/// The prompt that a shell is given, which nothing else prints by chance.
pub(crate) fn prompt(id: &str) -> String {
    format!("alpy-{id}# ")
}

/// The forms in which shells print a prompt: BusyBox's shell appends a request for the cursor position.
pub(crate) fn shown_prompts(prompt: &str) -> [String; 2] {
    [prompt.to_owned(), format!("{prompt}\x1b[6n")]
}

/// The last prompt of ours that a console has printed.
pub(crate) fn last_prompt(raw: &[u8]) -> Option<String> {
    let places = memchr::memmem::find_iter(raw, b"alpy-");
    let prompts = places.filter_map(|at| {
        let id = std::str::from_utf8(raw.get(at + 5..at + 13)?).ok()?;
        let prompt = prompt(id);
        let is_one = id.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_one && raw[at..].starts_with(prompt.as_bytes())).then_some(prompt)
    });
    prompts.last()
}

/// The command as one word to type, if it is short and of plain ASCII.
pub(super) fn typed(command: &str) -> Option<String> {
    let word = quote(command);
    (is_plain(command) && word.len() <= TYPED).then_some(word)
}

/// Text as one word of a shell that can be typed.
pub(super) fn quote(text: &str) -> String {
    if is_plain(text) {
        return format!("'{}'", text.replace('\'', "'\\''"));
    }
    let octal: String = text.bytes().map(|byte| format!("\\{byte:03o}")).collect();
    format!("\"$(printf '{octal}')\"")
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The content as lines for `alpy_get`, in blocks; the last one ends it.
pub(super) fn blocks(content: &[u8]) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut block = Vec::with_capacity(BLOCK + LINE);
    let mut characters = 0;
    let mut rest = content;
    while !rest.is_empty() {
        let start = block.len();
        rest = push_line(rest, &mut block);
        characters += block.len() - start - "\n".len();
        if block.len() >= BLOCK {
            block.extend_from_slice(b": more\n");
            blocks.push(std::mem::take(&mut block));
        }
    }
    block.extend_from_slice(format!(": end {characters}\n").as_bytes());
    blocks.push(block);
    blocks
}

/// Appends one line, up to the end of a line of the content if that fits; returns the rest.
fn push_line<'a>(content: &'a [u8], line: &mut Vec<u8>) -> &'a [u8] {
    line.push(b'#');
    let start = line.len();
    for (index, byte) in content.iter().enumerate() {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'%' => line.extend_from_slice(b"%%"),
            // At the beginning it would make the line an option of printf.
            b'-' if line.len() == start => line.extend_from_slice(b"\\055"),
            b' '..=b'~' => line.push(*byte),
            byte => line.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
        if *byte == b'\n' || line.len() - start > LINE - 5 {
            line.push(b'\n');
            return &content[index + 1..];
        }
    }
    line.push(b'\n');
    &[]
}

/// The output of command `id` in what came before its end, or `None` if the line where it begins is not there.
///
/// How that line ends says whether the terminal puts a `\r` before each `\n`.
pub(super) fn framed(before: &[u8], id: &str) -> Option<Vec<u8>> {
    let begin = format!("<{id}|");
    let start = memchr::memmem::rfind(before, begin.as_bytes())? + begin.len();
    // Before its end a command prints one more line end, of which the `\n` belongs to the needle.
    match &before[start..] {
        [b'\r', b'\n', output @ .., b'\r'] => Some(without_returns(output)),
        [b'\n', output @ ..] => Some(output.to_vec()),
        _ => None,
    }
}

/// Takes one `\r` away before each `\n`.
fn without_returns(output: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(output.len());
    for (index, byte) in output.iter().enumerate() {
        if !(*byte == b'\r' && output.get(index + 1) == Some(&b'\n')) {
            bytes.push(*byte);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_only_short_lines_of_printable_ascii() {
        let content: Vec<u8> = (0..=255).cycle().take(20_000).collect();
        for block in blocks(&content) {
            assert!(block.len() <= BLOCK + LINE + ": more\n".len(), "{}", block.len());
            for line in block.split(|byte| *byte == b'\n') {
                assert!(line.len() <= LINE, "{}", line.len());
                assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
            }
        }
    }

    #[test]
    fn shows_a_script_nearly_as_it_is() {
        let typed = blocks(b"#!/bin/sh\n-x 100%\n\n\tend").concat();
        let expected = "##!/bin/sh\\n\n#\\055x 100%%\\n\n#\\n\n#\\011end\n: end 37\n";
        assert_eq!(String::from_utf8(typed).unwrap(), expected);
        assert_eq!(blocks(b""), [b": end 0\n"]);
    }

    #[test]
    fn types_a_command_as_it_is_where_that_is_safe() {
        assert_eq!(typed("echo 'a' !").as_deref(), Some("'echo '\\''a'\\'' !'"));
        assert_eq!(quote("ü\n"), "\"$(printf '\\303\\274\\012')\"");
        for encoded in ["echo a\necho b", "echo\ta", "echo ü", &"x".repeat(TYPED)] {
            assert_eq!(typed(encoded), None);
        }
    }

    #[test]
    fn reads_the_output_out_of_its_frame() {
        for (before, output) in [
            ("# alpy 1 'x'\r\n<1|\r\nout\r\n\r", Some("out\n")),
            ("<1|\r\n\r", Some("")),
            ("<1|\r\na\r\r\n\r\r", Some("a\r\n\r")),
            ("<1|\nout\r\n", Some("out\r\n")),
            ("<1|\r\n: end\r\n<1|\r\nout\r", Some("out")),
            ("<2|\r\nout\r\n\r", None),
            ("<1[ 1.0] eth0: up\r\n|\r\nout\r\n\r", None),
        ] {
            let framed = framed(before.as_bytes(), "1");
            assert_eq!(framed.as_deref(), output.map(str::as_bytes), "{before:?}");
        }
    }
}
