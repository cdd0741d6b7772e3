// SPDX-License-Identifier: GPL-3.0-or-later
//! Figures, and what they come to.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::table;

/// All figures of all areas, in the order in which they were measured.
#[derive(Default)]
pub struct Figures(Vec<Figure>);

/// One figure of one run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    area: String,
    #[serde(flatten)]
    line: Line,
}

/// A figure as the program that measures prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    case: String,
    metric: String,
    subject: String,
    value: f64,
}

/// What the runs of one subject come to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    area: String,
    case: String,
    metric: String,
    subject: String,
    median: f64,
    least: f64,
    most: f64,
    /// The median as a part of that of the first subject.
    ratio: f64,
}

/// The own time of one subject against the number of links.
#[derive(Debug, PartialEq)]
pub struct Series {
    /// The subject.
    pub name: String,
    /// Its points, by the number of links.
    pub points: Vec<Point>,
}

/// A median and what it is the median of.
#[derive(Debug, PartialEq)]
pub struct Point {
    /// How many links.
    pub links: f64,
    /// The median.
    pub median: f64,
    /// The least value.
    pub least: f64,
    /// The greatest one.
    pub most: f64,
}

impl Figure {
    /// Its area, case, metric and subject.
    pub fn place(&self) -> (&str, &str, &str, &str) {
        let Line {
            case,
            metric,
            subject,
            ..
        } = &self.line;
        (&self.area, case, metric, subject)
    }
}

impl Figures {
    /// Adds the figures of another area.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Takes a line of the program that measures an area.
    pub fn take(&mut self, area: &str, line: &str) -> Result<()> {
        let line = serde_json::from_str(line).with_context(|| format!("{area}: no figure: {line}"))?;
        self.0.push(Figure {
            area: area.to_owned(),
            line,
        });
        Ok(())
    }

    /// Each figure.
    pub fn all(&self) -> &[Figure] {
        &self.0
    }

    /// The summary of each subject, case and metric, those of a case and a metric beside each other.
    pub fn summary(&self) -> Vec<Summary> {
        let mut groups: Vec<(&str, &str, &str)> = Vec::new();
        for figure in &self.0 {
            let group = figure.group();
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
        let mut all = Vec::new();
        for group in groups {
            let members: Vec<&Figure> = self.0.iter().filter(|figure| figure.group() == group).collect();
            let mut subjects: Vec<&str> = Vec::new();
            for member in &members {
                if !subjects.contains(&member.line.subject.as_str()) {
                    subjects.push(&member.line.subject);
                }
            }
            let mut first = None;
            for subject in subjects {
                let of = members
                    .iter()
                    .filter(|member| member.line.subject == subject)
                    .map(|member| member.line.value);
                let mut values: Vec<f64> = of.collect();
                values.sort_by(f64::total_cmp);
                let median = median(&values);
                let (area, case, metric) = group;
                all.push(Summary {
                    area: area.to_owned(),
                    case: case.to_owned(),
                    metric: metric.to_owned(),
                    subject: subject.to_owned(),
                    median,
                    least: values[0],
                    most: values[values.len() - 1],
                    ratio: median / *first.get_or_insert(median),
                });
            }
        }
        all
    }

    /// The median of one subject, if it was measured.
    pub fn median(&self, area: &str, case: &str, metric: &str, subject: &str) -> Option<f64> {
        let found = self.summary().into_iter().find(|summary| {
            (summary.area.as_str(), summary.case.as_str()) == (area, case)
                && (summary.metric.as_str(), summary.subject.as_str()) == (metric, subject)
        });
        found.map(|summary| summary.median)
    }

    /// An area for people.
    pub fn table(&self, area: &str) -> String {
        let row = |summary: &Summary| {
            [
                summary.case.clone(),
                summary.metric.clone(),
                summary.subject.clone(),
                short(summary.median),
                short(summary.least),
                short(summary.most),
                format!("{:.2}", summary.ratio),
            ]
        };
        let summary = self.summary();
        let of = summary.iter().filter(|summary| summary.area == area);
        let rows: Vec<[String; 7]> = of.map(row).collect();
        let head = ["case", "metric", "subject", "median", "least", "most", "ratio"];
        table::render(head, &rows, &head[3..])
    }

    /// A metric of the testbeds, a series for each subject.
    pub fn against_links(&self, metric: &str) -> Vec<Series> {
        let mut all: Vec<Series> = Vec::new();
        for summary in self.summary() {
            let links = summary
                .case
                .strip_suffix(" links")
                .and_then(|links| links.parse().ok());
            let Some(links) = links.filter(|_| summary.area == "testbed" && summary.metric == metric) else {
                continue;
            };
            let point = Point {
                links,
                median: summary.median,
                least: summary.least,
                most: summary.most,
            };
            match all.iter_mut().find(|series| series.name == summary.subject) {
                Some(series) => series.points.push(point),
                None => all.push(Series {
                    name: summary.subject,
                    points: vec![point],
                }),
            }
        }
        all
    }
}

impl Figure {
    fn group(&self) -> (&str, &str, &str) {
        (&self.area, &self.line.case, &self.line.metric)
    }
}

/// Of values in order, at least one.
fn median(values: &[f64]) -> f64 {
    let middle = values.len() / 2;
    if values.len() % 2 == 0 {
        (values[middle - 1] + values[middle]) / 2.0
    } else {
        values[middle]
    }
}

/// Three digits that count, or more before the point.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let mut figures = Figures::default();
        for (case, subject, value) in [
            ("2 links", "alpy", 1.0),
            ("2 links", "other", 8.0),
            ("2 links", "alpy", 3.0),
            ("2 links", "other", 9.0),
            ("2 links", "alpy", 2.0),
            ("8 links", "alpy", 4.0),
        ] {
            let line = format!(
                r#"{{"case":"{case}","metric":"own time, s","subject":"{subject}","value":{value}}}"#
            );
            figures.take("testbed", &line).unwrap();
        }
        figures
    }

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let table = figures().table("testbed");
        let expected = "\
case     metric       subject  median  least  most  ratio
2 links  own time, s  alpy       2.00   1.00  3.00   1.00
2 links  own time, s  other      8.50   8.00  9.00   4.25
8 links  own time, s  alpy       4.00   4.00  4.00   1.00
";
        assert_eq!(table, expected);
        assert_eq!(
            figures().median("testbed", "2 links", "own time, s", "other"),
            Some(8.5)
        );
        assert_eq!(
            figures().median("testbed", "8 links", "own time, s", "other"),
            None
        );
    }

    #[test]
    fn a_series_has_a_point_for_each_number_of_links() {
        let series = figures().against_links("own time, s");
        let lengths: Vec<_> = series
            .iter()
            .map(|series| (series.name.as_str(), series.points.len()))
            .collect();
        assert_eq!(lengths, [("alpy", 2), ("other", 1)]);
        assert_eq!(series[0].points[1].links, 8.0);
    }

    #[test]
    fn a_line_that_is_no_figure_is_an_error_that_shows_it() {
        let error = Figures::default().take("qmp", "hello\n").unwrap_err();
        assert!(error.to_string().contains("qmp: no figure: hello"), "{error}");
    }

    #[test]
    fn numbers_have_three_digits_that_count() {
        let shown = [4321.6, 43.21, 4.321, 0.4321, 0.0432].map(short);
        assert_eq!(shown, ["4322", "43.2", "4.32", "0.432", "0.0432"]);
    }
}
