// SPDX-License-Identifier: GPL-3.0-or-later
//! The report of a run in a real browser, and made of evidence by somebody who means harm. No engine is needed, and no machine.

#![expect(clippy::unwrap_used, reason = "what a test relies on")]

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

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
fn hostile(dir: &Path) {
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
    let run = json!({
        "format": 1,
        "test": said,
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
        "machines": [{"folder": ""}, {"folder": "machine1"}, {"folder": said}],
        "links": [link(json!({"machine": 0})), link(json!({"machine": 77})), {}],
        "containers": [{"name": "evil", "image": said, "asked": 1000.2, "stdout": [[0, 1000.3]]}, {"name": said}],
        "files": [{"name": said, "bytes": 1}, {"name": "javascript:alert(1)", "bytes": 1}],
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
fn busy(dir: &Path, packets: u64) {
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
fn router(dir: &Path) {
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
fn star(dir: &Path, nodes: usize) {
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

#[test]
fn a_packet_comes_in_at_one_link_and_leaves_at_the_next() {
    let dir = tempfile::tempdir().unwrap();
    router(dir.path());
    let page = fs::read_to_string(alpy::report::render(dir.path()).unwrap()).unwrap();
    let (_, sequence) = page.split_once("<ol class=\"sequence\"").unwrap();
    let (sequence, _) = sequence.split_once("</ol>").unwrap();
    let rows = sequence.lines().skip(1).filter(|row| row.starts_with("<li"));
    let rows: Vec<_> = rows
        .map(|row| {
            let between =
                |before: &str, after: &str| row.split_once(before).unwrap().1.split_once(after).unwrap().0;
            let place = between("left:", "%").parse::<f64>().unwrap().round();
            (
                between("<li class=\"", " "),
                between("<time>", "</time>"),
                between("<i>", "</i>"),
                place,
            )
        })
        .collect();
    // From the node to the first machine, from there to the second one, and, by itself, from that one to its node.
    let expected = [
        ("right", "0.1000", "link 0", 13.0),
        ("right", "0.1002", "link 1", 38.0),
        ("right", "0.1500", "link 2", 63.0),
        ("right", "0.2000", "link 0", 13.0),
        ("right", "0.2002", "link 1", 38.0),
        ("right", "0.2500", "link 2", 63.0),
    ];
    assert_eq!(rows, expected, "{sequence}");
    let names: Vec<_> = sequence
        .split("</li>")
        .next()
        .unwrap()
        .split("<b>")
        .skip(1)
        .collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(
        sequence.contains("<b>node 0</b><b>machine 0</b><b>machine 1</b><b>node 2</b>"),
        "{names:?}"
    );
}

#[test]
fn nothing_that_a_machine_prints_becomes_a_part_of_the_page() {
    let dir = tempfile::tempdir().unwrap();
    hostile(dir.path());
    let page = fs::read_to_string(alpy::report::render(dir.path()).unwrap()).unwrap();
    // All tags that there are, each one of alpy's own.
    let own = [
        "!DOCTYPE",
        "a",
        "b",
        "body",
        "details",
        "div",
        "em",
        "figcaption",
        "figure",
        "h1",
        "h2",
        "h3",
        "head",
        "header",
        "html",
        "i",
        "input",
        "label",
        "li",
        "line",
        "main",
        "meta",
        "nav",
        "ol",
        "p",
        "path",
        "polyline",
        "pre",
        "rect",
        "section",
        "span",
        "style",
        "summary",
        "svg",
        "table",
        "tbody",
        "td",
        "text",
        "th",
        "thead",
        "time",
        "title",
        "tr",
        "ul",
    ];
    for tag in page.split('<').skip(1) {
        let name = tag.trim_start_matches('/').split([' ', '>']).next().unwrap();
        assert!(own.contains(&name), "<{}", &tag[..tag.len().min(80)]);
        // Outside of quotes.
        let attributes = tag.split('>').next().unwrap();
        let attributes: String = attributes.split('"').step_by(2).collect();
        assert!(!attributes.contains(" on"), "<{attributes}>");
    }
    assert!(page.contains("&lt;img src=x onerror=&quot;"), "it is shown");
    for unseen in ['\u{202e}', '\u{2066}', '\0', '\u{1b}', '\u{200b}', '\u{feff}'] {
        assert!(!page.contains(unseen), "{unseen:?}");
    }
    assert!(page.contains("\\u{202e}txt.exe"), "it is shown");
    // The line of a megabyte is there several times, and each time a part of it.
    assert!(page.len() < 400_000, "{}", page.len());
}

#[test]
fn a_report_of_many_packets_is_short_and_soon_there() {
    let dir = tempfile::tempdir().unwrap();
    busy(dir.path(), 100_000);
    let began = Instant::now();
    let page = alpy::report::render(dir.path()).unwrap();
    let took = began.elapsed();
    let page = fs::read_to_string(page).unwrap();
    assert!(page.len() < 400_000, "{}", page.len());
    // It is read for 1.5 s at most, however busy this machine is.
    assert!(took < Duration::from_secs(5), "{took:?}");
    println!("200000 packets: {took:?}, {} kB", page.len() / 1000);
    assert!(
        page.contains(" more</div>") && page.contains("failover"),
        "{page}"
    );
}

#[test]
fn a_directory_without_a_run_has_no_report() {
    let dir = tempfile::tempdir().unwrap();
    let error = alpy::report::render(dir.path()).unwrap_err();
    assert!(error.to_string().starts_with("make the report of "), "{error}");
    fs::write(dir.path().join("run.json"), r#"{"format": 2}"#).unwrap();
    let error = std::error::Error::source(&alpy::report::render(dir.path()).unwrap_err())
        .unwrap()
        .to_string();
    assert_eq!(error, "run.json is of format 2");
}

mod browser {
    use std::process::{Command, Stdio};

    use super::*;

    /// Whether these tests can run. Where there is no browser to be had, that they cannot is no failure anywhere.
    fn has_browser() -> bool {
        let Err(reason) = alpy_need::chromium() else {
            return true;
        };
        if alpy_need::has_chromium_package() {
            alpy_need::skip("chromium", &reason);
        } else {
            eprintln!("SKIPPED: there is no package of Chromium for this distribution");
        }
        false
    }

    /// Chromium with a page, and what it prints.
    fn chromium(profile: &Path, arguments: &[&str], page: &Path) -> String {
        #[expect(clippy::disallowed_methods, reason = "a browser that is waited for at once")]
        let mut command = Command::new(alpy_need::chromium_path().unwrap());
        let output = command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
            ])
            .args([
                "--hide-scrollbars",
                "--allow-file-access-from-files",
                "--virtual-time-budget=20000",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(arguments)
            .arg(format!("file://{}", page.display()))
            .env("HOME", profile)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a page is like in a window of this width, as a script in another page sees it.
    fn look(dir: &Path, page: &Path, width: u32) -> Value {
        let outside = dir.join("outside.html");
        let script = "onload = () => setTimeout(() => {
            const page = document.querySelector('iframe').contentDocument;
            const all = [...page.querySelectorAll('*')];
            const handlers = all.filter(e => [...e.attributes].some(a => a.name.startsWith('on')));
            document.querySelector('output').textContent = JSON.stringify({
                width: page.documentElement.scrollWidth,
                pwned: page.documentElement.dataset.pwned ?? null,
                foreign: page.querySelectorAll('script, img, iframe, object, embed, base, link').length + handlers.length,
                links: [...new Set([...page.querySelectorAll('a[href]')].map(a => new URL(a.getAttribute('href'), page.baseURI).protocol))].sort(),
                title: page.title,
                color: getComputedStyle(page.body).backgroundColor,
                bars: [...page.querySelectorAll('.track b')].map(b => b.getBoundingClientRect().width),
                arrows: [...page.querySelectorAll('.sequence li div > b')].filter(b => b.style.left).map(b => {
                    const [arrow, heads] = [b.getBoundingClientRect(), [...page.querySelectorAll('.parties b')].map(h => h.getBoundingClientRect())];
                    const middles = heads.map(h => (h.left + h.right) / 2);
                    return [arrow.left, arrow.right].map(x => middles.findIndex(m => Math.abs(m - x) < 1.5));
                }),
                heads: [...page.querySelectorAll('.parties')].map(e => getComputedStyle(e).position)[0] ?? null,
                rows: page.querySelectorAll('.sequence li').length,
                wide: all.filter(e => e.getBoundingClientRect().right > innerWidth).map(e => `${e.tagName}.${e.className}`).slice(0, 8),
            });
        }, 300);";
        let html = format!(
            "<!DOCTYPE html><meta charset=utf-8><output></output><iframe src=\"file://{}\" width=\"{width}\" height=\"800\" \
             style=\"border:0\"></iframe><script>{script}</script>",
            page.display()
        );
        fs::write(&outside, html).unwrap();
        let dom = chromium(&dir.join("profile"), &["--dump-dom"], &outside);
        let (_, rest) = dom.split_once("<output>").unwrap();
        let json = rest.split("</output>").next().unwrap();
        let json = json
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&");
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json:?}"))
    }

    #[test]
    fn what_a_machine_prints_does_nothing() {
        if !has_browser() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        hostile(dir.path());
        let page = alpy::report::render(dir.path()).unwrap();
        let seen = look(dir.path(), &page, 1200);
        assert_eq!(seen["pwned"], Value::Null, "{seen}");
        assert_eq!(seen["foreign"], 0, "{seen}");
        assert_eq!(seen["links"], json!(["data:", "file:"]), "{seen}");
        let title = seen["title"].as_str().unwrap();
        assert!(title.contains("</pre></script><script>document."), "{title}");

        // The same without escaping: that it does nothing is then the policy's doing.
        let html = fs::read_to_string(&page).unwrap();
        let plain = html
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&quot;", "\"");
        fs::write(&page, &plain).unwrap();
        let seen = look(dir.path(), &page, 1200);
        assert_eq!(seen["pwned"], Value::Null, "{seen}");
        assert_ne!(seen["foreign"], 0, "{seen}");
        // And without the policy it would do something, or this test proves nothing.
        let (before, after) = plain
            .split_once("<meta http-equiv=\"Content-Security-Policy\"")
            .unwrap();
        let after = after.split_once('>').unwrap().1;
        fs::write(&page, format!("{before}{after}")).unwrap();
        let seen = look(dir.path(), &page, 1200);
        assert_ne!(seen["pwned"], Value::Null, "{seen}");
    }

    #[test]
    fn it_fits_a_phone_and_paper() {
        if !has_browser() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        hostile(dir.path());
        let page = alpy::report::render(dir.path()).unwrap();
        for width in [360, 1400] {
            let seen = look(dir.path(), &page, width);
            assert_eq!(seen["width"], width, "it is not wider than the window: {seen}");
            // No bar is lost, whatever its step's times are.
            for bar in seen["bars"].as_array().unwrap() {
                let bar = bar.as_f64().unwrap();
                assert!((1.0..=f64::from(width)).contains(&bar), "{seen}");
            }
        }
        let paper = dir.path().join("report.pdf");
        let print = format!("--print-to-pdf={}", paper.display());
        chromium(
            &dir.path().join("profile"),
            &["--no-pdf-header-footer", &print],
            &page,
        );
        assert!(fs::read(&paper).unwrap().starts_with(b"%PDF-"));
    }

    #[test]
    fn an_arrow_leads_from_the_one_to_the_other() {
        if !has_browser() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        router(dir.path());
        let page = alpy::report::render(dir.path()).unwrap();
        // The rules for paper hold on a screen as wide as A4 once they are called those of a screen.
        let html = fs::read_to_string(&page).unwrap();
        let paper = dir.path().join("paper.html");
        fs::write(&paper, html.replace("@media print", "@media screen")).unwrap();
        for (page, width) in [(&page, 360), (&page, 1400), (&paper, 794)] {
            let seen = look(dir.path(), page, width);
            assert_eq!(seen["width"], width, "{seen}");
            // What stays at the top of a screen would cover what is printed.
            let position = if page == &paper { "static" } else { "sticky" };
            assert_eq!(seen["heads"], position, "{seen}");
            // Each begins in the middle of a name and ends in the middle of another.
            let once = [[0, 1], [1, 2], [2, 3]];
            assert_eq!(seen["arrows"], json!([once, once].concat()), "{width}: {seen}");
        }
        let dir = tempfile::tempdir().unwrap();
        star(dir.path(), 15);
        let page = alpy::report::render(dir.path()).unwrap();
        let seen = look(dir.path(), &page, 360);
        assert_eq!(seen["width"], 360, "{seen}");
        // Eight nodes on the left of the machine and seven on the right.
        let from_node = |node| if node < 8 { [node, 8] } else { [8, node + 1] };
        let once: Vec<_> = (0..15).map(from_node).collect();
        assert_eq!(
            seen["arrows"],
            json!([&once[..], &once, &once].concat()),
            "{seen}"
        );
    }

    #[test]
    fn it_is_fast_with_many_packets() {
        if !has_browser() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        busy(dir.path(), 100_000);
        let page = alpy::report::render(dir.path()).unwrap();
        let began = Instant::now();
        let seen = look(dir.path(), &page, 390);
        let took = began.elapsed();
        println!("the browser started, and has laid it out: {took:?}");
        // The names, the first and the last ones, those around the two marks, and what is not shown between them.
        assert_eq!(seen["rows"], 1 + 2 * 200 + 2 + 25 + 2, "{seen}");
        assert_eq!(seen["width"], 390, "{seen}");
        assert!(took < Duration::from_secs(30), "{took:?}");
    }
}
