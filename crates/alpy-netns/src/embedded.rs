// SPDX-License-Identifier: GPL-3.0-or-later
/// The helper executable: static, stripped, needs nothing else in its image.
pub const HELPER: &[u8] = include_bytes!(env!("ALPY_NETNS_HELPER"));

/// A hash of [`HELPER`] in hexadecimal: the same bytes, the same hash, on every machine. Good for an image's tag.
pub const HELPER_HASH: &str = env!("ALPY_NETNS_HELPER_HASH");

/// Where the helper lies in [`image_tar`].
pub const HELPER_PATH: &str = "/alpy-netns-helper";

/// The root file system of the helper's image as an archive (`docker import`): the executable alone, at [`HELPER_PATH`].
pub fn image_tar() -> Vec<u8> {
    const BLOCK: usize = 512;
    // POSIX.1-1988 ustar: offsets and widths as in tar(5).
    let mut header = [0; BLOCK];
    let mut field =
        |offset: usize, text: &str| header[offset..offset + text.len()].copy_from_slice(text.as_bytes());
    field(0, HELPER_PATH.trim_start_matches('/'));
    field(100, "0000755");
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{:011o}", HELPER.len()));
    field(136, "00000000000");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());

    let mut tar = Vec::with_capacity(HELPER.len() + 4 * BLOCK);
    tar.extend_from_slice(&header);
    tar.extend_from_slice(HELPER);
    // To the end of the block, and two empty blocks as the end of the archive.
    tar.resize(tar.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    tar
}
