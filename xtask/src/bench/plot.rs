// SPDX-License-Identifier: GPL-3.0-or-later
//! A plot as SVG: lines through medians, with a bar from the least value to the greatest.

use std::fmt::Write;

use super::figures::Series;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 4] = ["#0b6e4f", "#b3402e", "#2b59c3", "#8a6d00"];

/// The plot of these series under a title.
pub fn svg(title: &str, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let (right_end, x_step) = scale(points().map(|point| point.links));
    let (top_end, y_step) = scale(points().map(|point| point.most));
    let x = |links: f64| LEFT + links / right_end * (WIDTH - LEFT - RIGHT);
    let y = |seconds: f64| HEIGHT - BOTTOM - seconds / top_end * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    // A String takes all that is written to it.
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(svg, "{text}");
    };
    line(format_args!(
        "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>"
    ));
    for tick in ticks(top_end, y_step) {
        let at = y(tick);
        line(format_args!(
            "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>",
            WIDTH - RIGHT
        ));
        line(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            LEFT - 8.0,
            at + 4.0
        ));
    }
    for tick in ticks(right_end, x_step) {
        line(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>",
            x(tick),
            HEIGHT - BOTTOM + 20.0
        ));
    }
    line(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">links</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 10.0
    ));
    for (index, series) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let path: Vec<String> = series
            .points
            .iter()
            .map(|point| format!("{:.1},{:.1}", x(point.links), y(point.median)))
            .collect();
        line(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        ));
        for point in &series.points {
            let at = x(point.links);
            line(format_args!(
                "<line x1=\"{at:.1}\" y1=\"{:.1}\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
                y(point.least),
                y(point.most)
            ));
            line(format_args!(
                "<circle cx=\"{at:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{colour}\"/>",
                y(point.median)
            ));
        }
        let at = LEFT + 200.0 * index as f64;
        line(format_args!(
            "<circle cx=\"{:.1}\" cy=\"40\" r=\"4\" fill=\"{colour}\"/>",
            at + 4.0
        ));
        line(format_args!(
            "<text x=\"{:.1}\" y=\"44\">{}</text>",
            at + 14.0,
            series.name
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

/// A round end of an axis that begins at 0, and the step between its ticks.
fn scale(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let most = values.fold(1e-3, f64::max);
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| *step >= rough).unwrap_or(steps[3]);
    ((most / step).ceil() * step, step)
}

fn ticks(end: f64, step: f64) -> impl Iterator<Item = f64> {
    // Without the noise of binary fractions.
    let rounded = move |tick: f64| (tick * 1000.0).round() / 1000.0;
    (0..=(end / step).round() as u32).map(move |count| rounded(f64::from(count) * step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Point;

    #[test]
    fn an_axis_has_round_ticks_and_room_for_the_greatest_value() {
        let axis = |most: f64| {
            let (end, step) = scale([0.5, most].into_iter());
            assert!(end >= most);
            ticks(end, step).collect::<Vec<_>>()
        };
        assert_eq!(axis(16.0), [0.0, 5.0, 10.0, 15.0, 20.0]);
        assert_eq!(axis(1.1), [0.0, 0.5, 1.0, 1.5]);
        assert_eq!(axis(0.7), [0.0, 0.2, 0.4, 0.6, 0.8]);
    }

    #[test]
    fn a_series_is_a_line_and_a_name() {
        let series = Series {
            name: "alpy".to_owned(),
            points: [2.0, 8.0]
                .map(|links| Point {
                    links,
                    median: links,
                    least: links - 1.0,
                    most: links + 1.0,
                })
                .into(),
        };
        let svg = svg("Time", &[series]);
        assert!(
            svg.contains(">alpy</text>") && svg.contains(">Time</text>"),
            "{svg}"
        );
        assert_eq!(svg.matches("<polyline").count(), 1);
        // A point each, and one beside the name.
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.ends_with("</svg>\n"));
    }
}
