// SPDX-License-Identifier: GPL-3.0-or-later
//! A password that a test knows and nobody who reads its evidence does.
#![expect(clippy::unwrap_used, reason = "what a test relies on")]

use std::fs;
use std::path::{Path, PathBuf};

use alpy::{Link, Testbed};
use alpy_need::need;

const PASSWORD: &str = "open sesame 42";

/// crypt(5) of it: what the rabbit is told of it in the open.
const HASH: &str =
    "$6$alpy$mJZcuOE1OCnNGbEa98g6A3JOiSrV3odljJ8Dm4OIqdewGRX9LSJ3areSY/4otCjJeTVDsGc7HnUuFqge6214K1";

#[tokio::test]
async fn a_password_is_in_no_file_of_the_evidence() {
    need!(docker, qemu);
    let run = Testbed::builder("password")
        .machine(rabbit::machine().unwrap())
        .link(Link::new().address("192.168.0.1/24"))
        .run(async |bed| {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            // There is no other word for it in a rabbit.
            let told =
                format!("sed -i 's|^root:[^:]*:|root:{HASH}:|' /etc/passwd && grep -q alpy /etc/passwd");
            shell.run(&told).await?;
            bed.console().send_line("exit").await?;
            // It is asked for, and the wrong one is refused.
            let wrong = rabbit::guest().password("close sesame 43");
            let refused = wrong.log_in(bed.console()).await.unwrap_err().to_string();
            assert!(refused.contains("Login incorrect"), "{refused}");
            assert!(!refused.contains("sesame"), "{refused}");
            let guest = rabbit::guest().password(PASSWORD);
            let mut shell = guest.log_in(bed.console()).await?;
            shell.run("true").await?;
            Ok::<_, anyhow::Error>(bed.evidence().dir().to_owned())
        });
    let dir = run.await.unwrap();
    let mut typed = 0;
    for path in files(&dir) {
        let content = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&content);
        assert!(!text.contains("sesame"), "it is in {}", path.display());
        typed += usize::from(text.contains("> <password>") || text.contains("&gt; &lt;password&gt;"));
    }
    assert_eq!(
        typed, 3,
        "the console's log, the one of the run, and the report tell of it"
    );
}

/// All files of a folder and of those in it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let (folders, mut files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| self::files(folder)));
    files
}
