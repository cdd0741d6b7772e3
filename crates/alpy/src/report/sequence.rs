// SPDX-License-Identifier: GPL-3.0-or-later
//! The packets of all links, one after the other: which are shown.

use super::packets::{AFTER_MARK, BEFORE_MARK, ENDS, Line, MARKS, Summary};
use super::record::{Mark, Record};

/// A line of all links.
#[derive(Debug)]
pub(super) enum Row<'a> {
    Packet {
        link: usize,
        line: &'a Line,
    },
    Mark {
        link: usize,
        mark: &'a Mark,
    },
    /// Packets that are not shown.
    More(u64),
}

/// A place among the packets of all links: how many of each link come before it. All of them come by their times, and those of the same time in the order
/// of the links, as in `links.pcapng`.
#[derive(Debug, Clone)]
struct Place<'a> {
    summaries: &'a [Summary],
    before: Vec<usize>,
}

/// The first marks of all links, by their times, each with its link.
pub(super) fn marks(record: &Record) -> Vec<(usize, &Mark)> {
    let links = record.links.iter().enumerate();
    let mut marks: Vec<_> = links
        .flat_map(|(link, of)| of.marks.iter().take(MARKS).map(move |mark| (link, mark)))
        .collect();
    marks.sort_by(|(_, one), (_, other)| one.made.total_cmp(&other.made));
    marks.truncate(MARKS);
    marks
}

/// The first and the last packets, and those around each mark.
pub(super) fn rows<'a>(record: &'a Record, summaries: &'a [Summary]) -> Vec<Row<'a>> {
    let marks: Vec<_> = marks(record)
        .into_iter()
        .map(|(link, mark)| (Place::at(summaries, mark.made - record.began), link, mark))
        .collect();
    // From where, and how many from there.
    let mut parts = vec![(Place::first(summaries), ENDS)];
    for (place, ..) in &marks {
        let mut from = place.clone();
        let before = from.back(BEFORE_MARK);
        parts.push((from, before + AFTER_MARK));
    }
    let mut end = Place::end(summaries);
    let last = end.back(ENDS);
    parts.push((end, last));
    parts.sort_by_key(|(from, _)| from.rank());

    let mut rows = Vec::new();
    let mut marks = marks.into_iter().peekable();
    // How many are shown, or are not and were counted; and how many of these are to be told of.
    let (mut done, mut hidden) = (0, 0);
    for (mut place, count) in parts {
        hidden += place.rank().saturating_sub(done);
        done = done.max(place.rank());
        for _ in 0..count {
            let rank = place.rank();
            let Some((link, number)) = place.next() else {
                break;
            };
            if rank < done {
                continue;
            }
            done = rank + 1;
            // What one of a strange order is not among the lines for is told of as others that are not shown.
            let Some(line) = line(&summaries[link], number) else {
                hidden += 1;
                continue;
            };
            if hidden > 0 {
                rows.push(Row::More(std::mem::take(&mut hidden)));
            }
            while let Some((_, link, mark)) = marks.next_if(|(place, ..)| place.rank() <= rank) {
                rows.push(Row::Mark { link, mark });
            }
            rows.push(Row::Packet { link, line });
        }
    }
    if hidden > 0 {
        rows.push(Row::More(hidden));
    }
    rows.extend(marks.map(|(_, link, mark)| Row::Mark { link, mark }));
    rows
}

fn line(summary: &Summary, number: usize) -> Option<&Line> {
    let number = number as u64;
    let found = summary.lines.binary_search_by_key(&number, |line| line.number);
    found.ok().map(|index| &summary.lines[index])
}

impl<'a> Place<'a> {
    fn first(summaries: &'a [Summary]) -> Self {
        Self::of(summaries, |_| 0)
    }

    fn end(summaries: &'a [Summary]) -> Self {
        Self::of(summaries, <[f64]>::len)
    }

    /// Before all that come at this moment or later.
    fn at(summaries: &'a [Summary], moment: f64) -> Self {
        Self::of(summaries, |times| times.partition_point(|time| *time < moment))
    }

    fn of(summaries: &'a [Summary], before: impl Fn(&[f64]) -> usize) -> Self {
        let before = summaries.iter().map(|summary| before(&summary.times)).collect();
        Self { summaries, before }
    }

    /// How many packets come before it.
    fn rank(&self) -> u64 {
        self.before.iter().map(|before| *before as u64).sum()
    }

    /// Goes behind the next packet: which link's it is, and which one of that.
    fn next(&mut self) -> Option<(usize, usize)> {
        let next = |link: usize| self.summaries[link].times.get(self.before[link]);
        let (_, link) = (0..self.before.len())
            .filter_map(|link| Some((next(link)?, link)))
            .min_by(|(one, _), (other, _)| one.total_cmp(other))?;
        self.before[link] += 1;
        Some((link, self.before[link] - 1))
    }

    /// Goes back by so many packets, and says how many there were.
    fn back(&mut self, count: usize) -> usize {
        for gone in 0..count {
            let last = |link: usize| self.summaries[link].times.get(self.before[link].checked_sub(1)?);
            let latest = (0..self.before.len())
                .filter_map(|link| Some((last(link)?, link)))
                .max_by(|(one, _), (other, _)| one.total_cmp(other));
            let Some((_, link)) = latest else {
                return gone;
            };
            self.before[link] -= 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::Link;

    /// A link with packets at these times, all of which are lines.
    fn summary(times: impl Iterator<Item = f64>) -> Summary {
        let times: Vec<_> = times.collect();
        let line = |(number, at): (usize, &f64)| Line {
            number: number as u64,
            at: *at,
            from: None,
            text: String::new(),
        };
        Summary {
            frames: times.len() as u64,
            lines: times.iter().enumerate().map(line).collect(),
            times,
            ..Summary::default()
        }
    }

    fn record(marks: &[&[f64]]) -> Record {
        let mark = |made: &f64| Mark {
            name: "mark".to_owned(),
            made: 1000.0 + made,
        };
        let link = |marks: &&[f64]| Link {
            marks: marks.iter().map(mark).collect(),
            ..Link::default()
        };
        Record {
            began: 1000.0,
            links: marks.iter().map(link).collect(),
            ..Record::default()
        }
    }

    fn shown(rows: &[Row<'_>]) -> Vec<String> {
        let row = |row: &Row<'_>| match row {
            Row::Packet { link, line } => format!("{link}.{}", line.number),
            Row::Mark { link, .. } => format!("mark {link}"),
            Row::More(count) => format!("more {count}"),
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn packets_come_by_their_times_and_then_by_their_links() {
        let summaries = [
            summary([1.0, 3.0, 3.0].into_iter()),
            summary([1.001, 2.0, 3.0].into_iter()),
            Summary::default(),
        ];
        let record = record(&[&[2.0], &[9.0], &[]]);
        let rows = shown(&rows(&record, &summaries));
        let expected = ["0.0", "1.0", "mark 0", "1.1", "0.1", "0.2", "1.2", "mark 1"];
        assert_eq!(rows, expected);
        assert!(super::rows(&Record::default(), &[]).is_empty());
    }

    #[test]
    fn each_packet_is_shown_or_counted_once() {
        // A packet each 10 ms, in turns on the two links; one of the marks is among the last ones.
        let times = |link: u32| (0..1000).map(move |number| f64::from(2 * number + link) / 100.0);
        let summaries = [summary(times(0)), summary(times(1))];
        let record = record(&[&[10.0], &[18.5]]);
        let rows = rows(&record, &summaries);
        let mut counts = vec![0];
        for row in &rows {
            match row {
                Row::Packet { .. } => *counts.last_mut().unwrap() += 1,
                Row::Mark { .. } => counts.push(0),
                Row::More(count) => counts.extend([*count, 0]),
            }
        }
        assert_eq!(counts, [200, 795, 5, 20, 780, 50, 150], "{:?}", shown(&rows));
    }

    #[test]
    fn what_is_no_line_is_counted() {
        let mut summaries = [summary([1.0, 2.0, 3.0].into_iter()), summary([1.5].into_iter())];
        summaries[0].lines.retain(|line| line.number != 1);
        summaries[1].lines.clear();
        let record = record(&[&[], &[]]);
        assert_eq!(shown(&rows(&record, &summaries)), ["0.0", "more 2", "0.2"]);
    }
}
