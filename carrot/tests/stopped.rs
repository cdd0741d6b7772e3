// SPDX-License-Identifier: GPL-3.0-or-later
//! What becomes of frames that are sent to a machine while it is stopped.

use std::time::Duration;

use alpy::pcap::{Capture, Packet};
use alpy::qmp::commands::{Cont, Stop};
use alpy::{Link, Testbed};
use alpy_need::need;
use anyhow::{Result, bail};
use carrot::frames;

const SENT: usize = 3000;

/// An Ethernet frame to everybody of a protocol for experiments (0x88b5, IEEE 802), with a number.
fn frame(number: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    frame.extend((number as u32).to_be_bytes());
    frame.resize(60, 0);
    frame
}

fn is_ours(bytes: &[u8]) -> bool {
    bytes.get(12..14) == Some(&[0x88, 0xb5])
}

#[tokio::test]
async fn frames_that_the_tap_drops_are_told_by_the_verdict() {
    need!(docker, qemu);
    let mut evidence = None;
    let failure = Testbed::builder("stopped")
        .machine(rabbit::machine().unwrap())
        .link(Link::new())
        .run(async |bed| -> Result<()> {
            bed.start_cpu().await?;
            let mut shell = carrot::login(bed).await?;
            shell.run("ip link set eth0 up").await?;
            evidence = Some(bed.evidence().dir().to_owned());
            bed.qmp().execute(Stop).await?;
            let sent: Vec<_> = (0..SENT).map(frame).collect();
            frames::send(bed.node(0), &sent).await?;
            bed.qmp().execute(Cont).await?;
            // The last of those that waited is taken by now, or was dropped.
            frames::send(bed.node(0), &[frame(SENT)]).await?;
            let last = |packet: &Packet<'_>| packet.frame().bytes() == frame(SENT);
            bed.capture(0).expect(last, Duration::from_secs(30)).await?;
            bail!("to see the text")
        })
        .await
        .unwrap_err();
    let text = failure.to_string();
    let evidence = evidence.unwrap();
    let capture = Capture::open(evidence.join("link0.pcap")).unwrap();
    let captured = capture.count(|packet| is_ours(packet.frame().bytes())).unwrap();
    let record = std::fs::read_to_string(evidence.join("run.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    let dropped = record["links"][0]["dropped"].as_u64().unwrap();
    println!("{captured} captured, {dropped} dropped\n{text}");
    // Each frame is in the capture, or was dropped by the tap: none is lost without a word.
    assert_eq!(captured as u64 + dropped, SENT as u64 + 1);
    if dropped > 0 {
        let words = format!(
            "link 0: the tap dropped {dropped} frames of node 0, because machine 0 did not take them"
        );
        assert!(text.contains(&words), "no {words:?} in {text}");
    }
}
