// SPDX-License-Identifier: GPL-3.0-or-later
//! The page in Chromium.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::made::{busy, hostile, mesh, router, star};

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
            labels: (svg => {
                if (!svg) return null;
                const lines = [...svg.querySelectorAll('line, path')].map(line =>
                    Array.from({length: 201}, (_, part) => line.getPointAtLength(line.getTotalLength() * part / 200)));
                const texts = [...svg.querySelectorAll('text')].map(text => ({name: text.firstChild.data, box: text.getBBox()}));
                const whole = svg.viewBox.baseVal;
                const apart = (one, other) => one.x + one.width < other.x + 1 || other.x + other.width < one.x + 1
                    || one.y + one.height < other.y + 2 || other.y + other.height < one.y + 2;
                const within = (point, box) => point.x > box.x && point.x < box.x + box.width
                    && point.y > box.y + 2 && point.y < box.y + box.height - 2;
                return {
                    names: texts.map(text => text.name),
                    on_lines: texts.filter(text => lines.flat().some(point => within(point, text.box))).map(text => text.name),
                    on_others: texts.filter((text, index) => texts.slice(0, index).some(other => !apart(text.box, other.box))).map(text => text.name),
                    cut: texts.filter(({box}) => box.x < 0 || box.y < 0 || box.x + box.width > whole.width || box.y + box.height > whole.height)
                        .map(text => text.name),
                };
            })(page.querySelector('svg.topology')),
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
    assert_eq!(title, "✗ hostile");

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

#[test]
fn the_topology_names_machines_and_nics_beside_the_lines() {
    if !has_browser() {
        return;
    }
    let of = |make: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        let page = alpy::report::render(dir.path()).unwrap();
        look(dir.path(), &page, 1400)["labels"].clone()
    };
    for labels in [of(&mesh), of(&router), of(&|dir| star(dir, 15))] {
        assert_eq!(labels["on_lines"], json!([]), "{labels}");
        assert_eq!(labels["on_others"], json!([]), "{labels}");
        assert_eq!(labels["cut"], json!([]), "{labels}");
    }
    let labels = of(&mesh);
    let names: Vec<_> = labels["names"].as_array().unwrap().iter().collect();
    let count = |name: &str| names.iter().filter(|found| **found == name).count();
    // Three machines, each of which has a node and two or three direct links.
    for (name, expected) in [
        ("machine 0", 1),
        ("machine 2", 1),
        ("nic 0", 3),
        ("nic 3", 2),
        ("link 6", 1),
    ] {
        assert_eq!(count(name), expected, "{name} in {labels}");
    }
}
