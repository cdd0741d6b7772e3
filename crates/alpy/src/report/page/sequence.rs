// SPDX-License-Identifier: GPL-3.0-or-later
//! The packets of all links as one ladder: a column for each node and machine, so that one sees where a packet comes in and where it leaves.

use std::fmt::Write;

use super::end_name;
use crate::report::html::{line, text};
use crate::report::packets::{Line, Summary};
use crate::report::record::{End, Link, Record};
use crate::report::sequence::{Row, rows};

/// Up to how many packets are shown without being asked for.
const OPEN: u64 = 100;

/// With more columns than this their names stand upright; on a phone and on paper with more than the other.
const MANY: usize = 8;
const MANY_ON_PHONE: usize = 4;

pub(super) fn sequence(page: &mut String, record: &Record, summaries: &[Summary]) {
    if record.links.len() < 2 {
        return;
    }
    let links = record.links.iter().zip(summaries);
    let used = links.filter(|(_, summary)| summary.frames > 0);
    let columns = columns(used.clone().map(|(link, _)| link));
    let frames: u64 = summaries.iter().map(|summary| summary.frames).sum();
    let _ = writeln!(
        page,
        "<section id=\"links\"><h2>All links</h2>\n<p>{frames} frames on {} of {} links</p>\n\
         <p class=\"small\">On links of one machine they are in the order in which they passed; the clocks of machines agree to some milliseconds.</p>",
        used.count(),
        record.links.len()
    );
    if summaries.iter().any(|summary| summary.is_partial) {
        page.push_str("<p class=\"note\">Not all was read, for it takes too long: of some links the later packets are missing.</p>\n");
    }
    if frames > 0 {
        let open = if frames <= OPEN { " open" } else { "" };
        let class = match (columns.len() > MANY_ON_PHONE, columns.len() > MANY) {
            (false, _) => "",
            (true, false) => " many",
            (true, true) => " many crowd",
        };
        let _ = write!(
            page,
            "<details class=\"packets\"{open}><summary>Packets of all links</summary>\n\
             <ol class=\"sequence{class}\" style=\"--columns:{}\"><li class=\"parties\"><time></time><div>",
            columns.len().max(1)
        );
        for end in &columns {
            let _ = write!(page, "<b>{}</b>", text(&end_name(record, Some(end))));
        }
        page.push_str("</div></li>\n");
        for row in rows(record, summaries) {
            write_row(page, record, &columns, &row);
        }
        page.push_str("</ol></details>\n");
    }
    page.push_str("</section>\n");
}

/// Who is at the ends of these links, from left to right: one machine has its nodes on both sides; of several, the last has them on its right, and the
/// others on their left.
fn columns<'a>(links: impl Iterator<Item = &'a Link>) -> Vec<&'a End> {
    let links: Vec<_> = links.collect();
    let mut machines: Vec<_> = links
        .iter()
        .flat_map(|link| &link.ends)
        .filter_map(|end| Some((end.machine?, end)))
        .collect();
    machines.sort_by_key(|(machine, _)| *machine);
    machines.dedup_by_key(|(machine, _)| *machine);
    let mut columns = Vec::new();
    for (place, (machine, end)) in machines.iter().enumerate() {
        let at_machine = |link: &&&Link| link.ends.iter().any(|end| end.machine == Some(*machine));
        let nodes: Vec<_> = links
            .iter()
            .filter(at_machine)
            .filter_map(|link| link.ends.iter().find(|end| end.node.is_some()))
            .collect();
        let left = match (place, machines.len()) {
            (_, 1) => nodes.len().div_ceil(2),
            (place, count) if place + 1 == count => 0,
            _ => nodes.len(),
        };
        columns.extend_from_slice(&nodes[..left]);
        columns.push(end);
        columns.extend_from_slice(&nodes[left..]);
    }
    columns
}

fn write_row(page: &mut String, record: &Record, columns: &[&End], row: &Row<'_>) {
    let _ = match row {
        Row::Packet { link, line: packet } => write_packet(page, record, columns, *link, packet),
        Row::Mark { link, mark } => writeln!(
            page,
            "<li class=\"mark\"><time>{:.4}</time><div><span>link {link}: {}</span></div></li>",
            mark.made - record.began,
            line(&mark.name)
        ),
        Row::More(count) => writeln!(
            page,
            "<li class=\"more\"><time></time><div><span>{count} more</span></div></li>"
        ),
    };
}

fn write_packet(
    page: &mut String,
    record: &Record,
    columns: &[&End],
    link: usize,
    packet: &Line,
) -> std::fmt::Result {
    let Line { at, from, text, .. } = packet;
    let ends = record.links.get(link).map_or(&[][..], |link| &link.ends);
    let column = |end: usize| {
        let end = ends.get(end)?;
        let is = |column: &&End| (column.node, column.machine) == (end.node, end.machine);
        columns.iter().position(is)
    };
    let (class, arrow) = match (column(0), column(1)) {
        (Some(first), Some(second)) => {
            let rightwards = match from {
                Some(0) => Some(first <= second),
                Some(_) => Some(second <= first),
                None => None,
            };
            let way = match rightwards {
                Some(true) => "right",
                Some(false) => "left",
                None => "either",
            };
            let width = 100.0 / columns.len() as f64;
            let left = (first.min(second) as f64 + 0.5) * width;
            // A cable from a machine to itself is short.
            let length = (first.abs_diff(second) as f64).max(0.3) * width;
            let side = match left + length / 2.0 {
                ..45.0 => "near",
                45.0..=55.0 => "middle",
                _ => "far",
            };
            let arrow = format!("<b style=\"left:{left:.2}%;width:{length:.2}%\"></b>");
            (format!("{way} {side}"), arrow)
        }
        _ => ("nowhere".to_owned(), String::new()),
    };
    writeln!(
        page,
        "<li class=\"{class}\"><time>{at:.4}</time><div><span><i>link {link}</i> {}</span>{arrow}</div></li>",
        line(text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(index: usize) -> End {
        End {
            node: Some(index),
            ..End::default()
        }
    }

    fn machine(index: usize) -> End {
        End {
            machine: Some(index),
            ..End::default()
        }
    }

    fn names(links: &[[End; 2]]) -> Vec<String> {
        let links: Vec<_> = links
            .iter()
            .map(|ends| Link {
                ends: ends.to_vec(),
                ..Link::default()
            })
            .collect();
        let record = Record {
            machines: vec![Default::default(); 2],
            ..Record::default()
        };
        let columns = columns(links.iter());
        columns.iter().map(|end| end_name(&record, Some(end))).collect()
    }

    #[test]
    fn a_machine_stands_among_its_nodes_and_a_chain_in_its_order() {
        let router = [[node(0), machine(0)], [node(1), machine(0)]];
        assert_eq!(names(&router), ["node 0", "machine 0", "node 1"]);
        let chain = [
            [node(0), machine(0)],
            [machine(0), machine(1)],
            [node(2), machine(1)],
        ];
        assert_eq!(names(&chain), ["node 0", "machine 0", "machine 1", "node 2"]);
        assert!(names(&[]).is_empty());
    }
}
