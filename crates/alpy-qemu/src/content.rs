// SPDX-License-Identifier: GPL-3.0-or-later
//! The content of files, in a few bytes.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// 128 bits of checksum over bytes: any change of a single word changes it for certain, any other one but for bad luck. No defence
/// against somebody who means harm.
///
/// Made for speed without optimisation, as in a test: a multiplication and a rotation for each 8 bytes, in lanes, and one comparison for a page
/// of zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum([u64; 2]);

impl Checksum {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let mut sum = Sum::new();
        sum.add(bytes);
        sum.finish()
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// The checksum of a file's content.
///
/// # Errors
/// It cannot be read.
pub fn checksum(path: impl AsRef<Path>) -> io::Result<Checksum> {
    let mut file = File::open(path)?;
    let mut sum = Sum::new();
    // A multiple of a block, so that only the last one may not be whole.
    let mut chunk = vec![0; 1 << 20];
    loop {
        let mut filled = 0;
        while filled < chunk.len() {
            match file.read(&mut chunk[filled..])? {
                0 => break,
                length => filled += length,
            }
        }
        sum.add(&chunk[..filled]);
        if filled < chunk.len() {
            return Ok(sum.finish());
        }
    }
}

/// Which file it is, and when it was changed last: as long as this is the same, the content is, unless the disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// Of a file, whose symbolic links are followed.
    ///
    /// # Errors
    /// It is not there.
    pub fn of(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::from(&fs::metadata(path)?))
    }

    /// Whether the last change was long enough ago that one more would be seen: a kernel's clock for files ticks each few milliseconds.
    pub fn is_settled(&self) -> bool {
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1)) else {
            return false;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos);
        SystemTime::now()
            .duration_since(changed)
            .is_ok_and(|age| age > Duration::from_millis(200))
    }
}

impl From<&Metadata> for Identity {
    fn from(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            device,
            inode,
            size,
            modified,
            changed,
        } = self;
        write!(
            f,
            "{device}:{inode}:{size}:{}.{}:{}.{}",
            modified.0, modified.1, changed.0, changed.1
        )
    }
}

struct Sum {
    /// One for each word of a block, and one for all of them: it keeps a trace of a change that the next word of a lane takes back.
    lanes: [u64; 5],
    length: u64,
}

/// Odd, so that to multiply by them loses nothing.
const FACTORS: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0xbf58_476d_1ce4_e5b9,
    0x94d0_49bb_1331_11eb,
    0xd6e8_feb8_6659_fd93,
];

const PAGE: usize = 4096;

/// Stands for a page of zeros, of which the memory of a guest has many.
const NOTHING: u64 = 0x2545_f491_4f6c_dd1d;

impl Sum {
    fn new() -> Self {
        let [a, b, c, d] = FACTORS;
        Self {
            lanes: [a, b, c, d, !a],
            length: 0,
        }
    }

    /// Adds bytes: whole pages but for the last time.
    fn add(&mut self, bytes: &[u8]) {
        let [mut a, mut b, mut c, mut d, mut all] = self.lanes;
        for page in bytes.chunks(PAGE) {
            if page == &ZEROS[..page.len()] {
                a = step(a, NOTHING, FACTORS[0]);
                all = step(all, a, FACTORS[1]);
                continue;
            }
            let mut blocks = page.chunks_exact(32);
            let mut add = |block: &[u8]| {
                a = step(a, word(&block[..8]), FACTORS[0]);
                b = step(b, word(&block[8..16]), FACTORS[1]);
                c = step(c, word(&block[16..24]), FACTORS[2]);
                d = step(d, word(&block[24..]), FACTORS[3]);
                all = step(all, a ^ b ^ c ^ d, FACTORS[0]);
            };
            for block in &mut blocks {
                add(block);
            }
            let rest = blocks.remainder();
            if !rest.is_empty() {
                let mut block = [0; 32];
                block[..rest.len()].copy_from_slice(rest);
                add(&block);
            }
        }
        self.lanes = [a, b, c, d, all];
        self.length += bytes.len() as u64;
    }

    fn finish(self) -> Checksum {
        let mut halves = [self.length, !self.length];
        for (half, factor) in halves.iter_mut().zip(FACTORS) {
            for lane in self.lanes {
                *half = (*half ^ lane).wrapping_mul(factor);
                *half ^= *half >> 29;
            }
        }
        Checksum(halves)
    }
}

static ZEROS: [u8; PAGE] = [0; PAGE];

#[inline]
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ])
}

#[inline]
fn step(lane: u64, word: u64, factor: u64) -> u64 {
    (lane ^ word).wrapping_mul(factor).rotate_left(31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn sees_each_bit_and_the_length() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut sums = HashSet::from([Checksum::of(&bytes)]);
        for bit in 0..800 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(sums.insert(Checksum::of(&bytes)), "bit {bit}");
        }
        for length in 0..100 {
            assert!(sums.insert(Checksum::of(&vec![0; length])), "{length} zeros");
        }
    }

    #[test]
    fn is_the_same_for_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 31, 32, (1 << 20) - 1, 1 << 20, (1 << 20) + 33] {
            let bytes: Vec<u8> = (0..length).map(|n: u32| (n % 251) as u8).collect();
            fs::write(&path, &bytes).unwrap();
            assert_eq!(checksum(&path).unwrap(), Checksum::of(&bytes), "{length}");
        }
    }

    #[test]
    fn knows_a_file_that_was_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let before = Identity::of(&path).unwrap();
        assert!(!before.is_settled());
        assert_eq!(Identity::of(&path).unwrap(), before);
        fs::write(&path, "three").unwrap();
        assert_ne!(Identity::of(&path).unwrap(), before);
    }
}
