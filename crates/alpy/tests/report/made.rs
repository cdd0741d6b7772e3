// SPDX-License-Identifier: GPL-3.0-or-later
//! Evidence directories of runs that never were.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use alpy::pcap::{Frame, Writer};
use serde_json::{Value, json};

/// What a machine or a container may print in the hope that somebody looks at it in a browser. Each would leave a trace in the page that
/// it runs in.
const HOSTILE: &[&str] = &[
    "</pre></script><script>document.documentElement.dataset.pwned='script'</script>",
    "<img src=x onerror=\"document.documentElement.dataset.pwned='img'\">",
    "\"><svg onload=document.documentElement.dataset.pwned='svg'>",
    "' onmouseover='document.documentElement.dataset.pwned=1' x='",
    "<!-- ]]> </style></textarea></title> <iframe src=javascript:alert(1)></iframe>",
    "<a href=\"javascript:alert(1)\">x</a> {{7*7}} ${7*7} &lt;b&gt;",
    "<meta http-equiv=refresh content='0; url=https://example.org/'><base href=https://example.org/>",
    "bidi \u{202e}txt.exe\u{2066} zero\u{200b}width \u{feff} \u{e0041}",
    "controls \0 \x1b[31m \x07 \x08 \u{9b} \r",
];

/// An evidence directory in which everything that can be is hostile.
pub(crate) fn hostile(dir: &Path) {
    let all = HOSTILE.join("\n");
    let invalid = [
        all.as_bytes(),
        b"\n\xff\xfe\xc3\x28\xf0\x9f\n",
        &vec![b'x'; 1 << 20],
    ]
    .concat();
    let said = [&all, "", "second"].join("\n");
    let log = HOSTILE.iter().map(|text| format!("    0.100  INFO a {text}\n"));
    fs::create_dir_all(dir.join("containers")).unwrap();
    fs::create_dir_all(dir.join("machine1")).unwrap();
    for name in ["console.log", "machine1/console.log", "containers/evil.stdout"] {
        fs::write(dir.join(name), &invalid).unwrap();
    }
    fs::write(dir.join("console.times"), "0 1000.2\n").unwrap();
    fs::write(dir.join("containers/evil.stderr"), &said).unwrap();
    fs::write(dir.join("containers/evil.status"), &said).unwrap();
    fs::write(dir.join("qemu-stderr.log"), &invalid).unwrap();
    fs::write(
        dir.join("qmp.log"),
        format!("  0.1 <- {{\"event\": {}}}\n", json!(said)),
    )
    .unwrap();
    fs::write(dir.join("debug.log"), log.collect::<String>()).unwrap();
    let link = |end: Value| {
        json!({
            "capture": "link0.pcap",
            "ends": [{"node": 0, "mac": said, "addresses": [said, said, said], "gateways": [said]}, end],
            "clock_ahead": 0,
            "marks": [{"name": said, "made": 1000.5}],
        })
    };
    capture(&dir.join("link0.pcap"), 3);
    // As much of it as a file name may have.
    let name = said.replace(['/', '\0'], "");
    let run = json!({
        "format": 1,
        "test": "hostile",
        "description": said,
        "version": said,
        "verdict": "failed",
        "began": 1000,
        "entered": 1000.1,
        "left": 1000.9,
        "ended": 1001,
        "failure": {
            "kind": said,
            "cause": said,
            "step": said,
            "findings": HOSTILE,
            "times": HOSTILE,
            "machines": [{"console": HOSTILE, "events": HOSTILE}, {}],
            "teardown": HOSTILE,
        },
        "steps": [{"text": said, "began": 1000.1, "seconds": 1e300, "depth": 99}, {"text": said, "began": -1e300}],
        "machines": [{"folder": ""}, {"folder": "machine1"}, {"folder": name}],
        "links": [link(json!({"machine": 0})), link(json!({"machine": 77})), {"capture": name}],
        "containers": [{"name": "evil", "image": said, "asked": 1000.2, "stdout": [[0, 1000.3]]}, {"name": name}],
        "files": [{"name": name, "bytes": 1}, {"name": "javascript:alert(1)", "bytes": 1}],
    });
    fs::write(dir.join("run.json"), run.to_string()).unwrap();
}

/// A capture of UDP datagrams between two addresses, a millisecond between two of them.
fn capture(path: &Path, count: u64) {
    let mut writer = Writer::new(std::io::BufWriter::new(File::create(path).unwrap())).unwrap();
    for number in 0..count {
        let mut bytes = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 0];
        bytes.extend([0x45, 0, 0, 128, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 0, 1]);
        bytes.extend([192, 168, 0, 2, 0, 7, 0, 9, 0, 108, 0, 0]);
        bytes.resize(142, 0);
        let at = Duration::from_millis(1_000_000 + number);
        writer.write(&Frame::new(at, bytes)).unwrap();
    }
}

/// A run whose two links have many packets.
pub(crate) fn busy(dir: &Path, packets: u64) {
    let link = |index: usize| {
        capture(&dir.join(format!("link{index}.pcap")), packets);
        json!({
            "capture": format!("link{index}.pcap"),
            "ends": [
                {"node": index, "addresses": ["192.168.0.1/24", "2001:db8:1234:5678::1/64"]},
                {"machine": 0, "mac": "52:54:00:12:34:56"},
            ],
            "clock_ahead": 0,
            "marks": [{"name": "failover", "made": 1000.0 + packets as f64 / 2000.0}],
        })
    };
    let end = 1000.0 + packets as f64 / 1000.0;
    let run = json!({
        "format": 1,
        "test": "busy",
        "verdict": "passed",
        "began": 1000,
        "ended": end,
        "machines": [{"folder": ""}],
        "links": [link(0), link(1)],
    });
    fs::write(dir.join("run.json"), run.to_string()).unwrap();
}

/// A run of two routers: each datagram comes in on link 0 and leaves on link 1, to the second router, a fifth of a millisecond later. The clock of the
/// first router is half a second slow, and that of the second, which sends to its node on link 2, is three seconds fast.
pub(crate) fn router(dir: &Path) {
    let datagrams = |link: usize, clock: f64, times: &[f64]| {
        let file = File::create(dir.join(format!("link{link}.pcap"))).unwrap();
        let mut writer = Writer::new(file).unwrap();
        for (number, at) in times.iter().enumerate() {
            let source = if link == 0 {
                [2, 0, 0, 0, 0, 1]
            } else {
                [0x52, 0x54, 0, 0, 0, link as u8]
            };
            let mut bytes = [
                &[0xff; 6][..],
                &source,
                &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 0, 1],
            ]
            .concat();
            bytes.extend([192, 168, 9, 9, 0, 7, 0, 10 + number as u8, 0, 8, 0, 0]);
            let at = Duration::from_secs_f64(1000.0 + at - clock);
            writer.write(&Frame::new(at, bytes)).unwrap();
        }
        let clock_ahead = clock;
        let node = json!({"node": link, "mac": "02:00:00:00:00:01", "addresses": ["192.168.0.1/24"]});
        let near = json!({"machine": 0, "mac": format!("52:54:00:00:00:0{link}")});
        let ends = match link {
            0 => json!([node, near]),
            1 => json!([near, {"machine": 1, "mac": "52:54:00:00:00:11"}]),
            _ => json!([{"node": link, "addresses": []}, {"machine": 1, "mac": "52:54:00:00:00:02"}]),
        };
        json!({"capture": format!("link{link}.pcap"), "ends": ends, "clock_ahead": clock_ahead})
    };
    let links = [
        datagrams(0, 0.5, &[0.1, 0.2]),
        datagrams(1, 0.5, &[0.1002, 0.2002]),
        datagrams(2, -3.0, &[0.15, 0.25]),
    ];
    let run = json!({
        "format": 1,
        "test": "router",
        "verdict": "passed",
        "began": 1000,
        "ended": 1001,
        "machines": [{"folder": ""}, {"folder": "machine1"}],
        "links": links,
    });
    fs::write(dir.join("run.json"), run.to_string()).unwrap();
}

/// A run of a machine with so many nodes, each of which has sent three datagrams.
pub(crate) fn star(dir: &Path, nodes: usize) {
    let link = |index: usize| {
        let name = format!("link{index}.pcap");
        capture(&dir.join(&name), 3);
        json!({"capture": name, "ends": [{"node": index, "mac": "02:00:00:00:00:01"}, {"machine": 0}], "clock_ahead": 0})
    };
    let links: Vec<_> = (0..nodes).map(link).collect();
    let run =
        json!({"format": 1, "test": "star", "began": 1000, "ended": 1001, "machines": [{}], "links": links});
    fs::write(dir.join("run.json"), run.to_string()).unwrap();
}

/// A run of three machines, each with a node. There are two direct links between the first two machines, and one between each other pair.
pub(crate) fn mesh(dir: &Path) {
    let node = |index: usize, machine: usize| {
        let addresses = [
            "192.168.100.1/24",
            "2001:db8:1234:5678:9abc:def0:1234:5678/64",
            "fe80::1/64",
        ];
        json!([{"node": index, "addresses": addresses}, {"machine": machine, "mac": "52:54:00:12:34:56"}])
    };
    let direct = |one: usize, other: usize| json!([{"machine": one}, {"machine": other}]);
    let ends = [
        node(0, 0),
        direct(0, 1),
        node(2, 1),
        direct(1, 2),
        node(4, 2),
        direct(0, 2),
        direct(1, 0),
    ];
    let link = |(index, ends): (usize, &Value)| {
        let name = format!("link{index}.pcap");
        capture(&dir.join(&name), 12_345);
        json!({"capture": name, "ends": ends, "clock_ahead": 0})
    };
    let links: Vec<_> = ends.iter().enumerate().map(link).collect();
    let run = json!({
        "format": 1,
        "test": "mesh",
        "began": 1000,
        "ended": 1020,
        "machines": [{"folder": ""}, {"folder": "machine1"}, {"folder": "machine2"}],
        "links": links,
    });
    fs::write(dir.join("run.json"), run.to_string()).unwrap();
}
