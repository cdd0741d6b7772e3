// SPDX-License-Identifier: GPL-3.0-or-later
//! Machines, links and nodes as a picture.

use std::fmt::Write;

use super::html::text;
use super::packets::Summary;
use super::record::{End, Link, Record};

/// Sizes in the picture's own units, which are a little less than pixels.
const MACHINE_WIDTH: f64 = 168.0;
const GUTTER: f64 = 76.0;
const LANE: f64 = 66.0;
const SLOT: f64 = 58.0;
const BETWEEN: f64 = 34.0;
const LINE: f64 = 14.0;
/// The distance from the edge of a machine's box to its first direct link, and between two direct links: room for the names of NICs.
const EDGE: f64 = 9.0;
const NIC_LINE: f64 = 13.0;
/// The radius of a direct link's corners.
const CORNER: f64 = 9.0;
/// The height of a link's label above and below its place: the name above, the count below.
const LABEL: f64 = 18.0;
const CHARACTER: f64 = 6.7;
const MARGIN: f64 = 6.0;

/// A machine's box.
struct Place {
    top: f64,
    height: f64,
    /// How many slots are taken on the left and on the right.
    taken: [usize; 2],
}

/// The course of a link in the picture.
#[derive(Clone, Copy)]
enum Route {
    /// A line at this height, on the left (0) or on the right (1) of its machine.
    ToNode { side: usize, y: f64 },
    /// From one machine to another one below it, in a lane beside both. Lane 0 is the innermost.
    Direct {
        side: usize,
        lane: f64,
        from: f64,
        to: f64,
        /// The link's first end is the upper one.
        is_down: bool,
    },
}

/// The picture: machines one above the other, their nodes on both sides, direct links from one machine to another.
pub(super) fn picture(record: &Record, summaries: &[Summary]) -> String {
    let nodes_of = |machine: usize| {
        let links = record.links.iter();
        links.filter(move |link| node_of(link).is_some() && machine_at(link, 1) == Some(machine))
    };
    let direct_links = record.links.iter().filter(|link| node_of(link).is_none()).count();
    // Direct links alternate between the two sides; each has a lane with room for its name.
    let lanes = direct_links.div_ceil(2);
    let ends_of_curves = match lanes {
        0 => 0.0,
        _ => (EDGE + NIC_LINE * lanes as f64 - SLOT / 2.0).max(0.0),
    };
    let mut top = MARGIN;
    let mut places = Vec::new();
    for machine in 0..record.machines.len() {
        let slots = nodes_of(machine).count().div_ceil(2).max(1);
        let height = slots as f64 * SLOT + 2.0 * ends_of_curves;
        places.push(Place {
            top,
            height,
            taken: [0, 0],
        });
        top += height + BETWEEN;
    }
    let height = top - BETWEEN + MARGIN;
    let is_wide = |side: usize| (0..places.len()).any(|machine| nodes_of(machine).count() > side);
    let longest = record
        .links
        .iter()
        .filter_map(node_of)
        .flat_map(node_lines)
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let node_width = (longest as f64 * CHARACTER + 14.0).clamp(84.0, 300.0);
    let gutter = match lanes {
        0 => GUTTER,
        _ => GUTTER + 36.0 + LANE * lanes as f64,
    };
    let side_width = |side: usize| match (is_wide(side), lanes) {
        (true, _) => node_width + gutter,
        (false, 0) => 0.0,
        (false, _) => gutter,
    };
    let left = MARGIN + side_width(0);
    let right = left + MACHINE_WIDTH;
    let width = right + side_width(1) + MARGIN;

    let mut svg = format!(
        "<svg class=\"topology\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{:.0}\" role=\"img\" aria-label=\"Machines, links and nodes\">\n",
        width * 1.3
    );
    let (mut boxes, mut boxes_of_nics) = (String::new(), String::new());
    let mut direct = 0;
    let mut route = |link: &Link| {
        if node_of(link).is_some() {
            let place = places.get_mut(machine_at(link, 1)?)?;
            let side = usize::from(place.taken[1] < place.taken[0]);
            let y = place.top + ends_of_curves + (place.taken[side] as f64 + 0.5) * SLOT;
            place.taken[side] += 1;
            return Some(Route::ToNode { side, y });
        }
        let place = |end| places.get(machine_at(link, end)?);
        let (one, other) = (place(0)?, place(1)?);
        let (upper, lower) = match one.top <= other.top {
            true => (one, other),
            false => (other, one),
        };
        // An inner lane is shorter: its link leaves the upper box nearer to the lower edge, and enters the lower box nearer to the upper edge.
        let shift = EDGE + NIC_LINE * f64::from(direct / 2);
        direct += 1;
        Some(Route::Direct {
            side: usize::from(direct % 2 == 1),
            lane: f64::from((direct - 1) / 2),
            from: upper.top + upper.height - shift,
            to: lower.top + shift,
            is_down: one.top <= other.top,
        })
    };
    let routes: Vec<_> = record.links.iter().map(&mut route).collect();
    for (index, link) in record.links.iter().enumerate() {
        let frames = summaries.get(index).map_or(0, |summary| summary.frames);
        let label = format!(
            "<a href=\"#link{index}\"><text class=\"name\" x=\"{{x}}\" y=\"{{above}}\" text-anchor=\"{{anchor}}\">link {index}</text>\
             <text class=\"count\" x=\"{{x}}\" y=\"{{below}}\" text-anchor=\"{{anchor}}\">{frames} fr.</text></a>\n"
        );
        let label = |x: f64, y: f64, anchor: &str| {
            label
                .replace("{anchor}", anchor)
                .replace("{x}", &format!("{x:.0}"))
                .replace("{above}", &format!("{:.0}", y - 4.0))
                .replace("{below}", &format!("{:.0}", y + 12.0))
        };
        if let (Some(node), Some(Route::ToNode { side, y })) = (node_of(link), routes[index]) {
            let (near, far, x) = match side {
                0 => (left, left - gutter, left - gutter - node_width),
                _ => (right, right + gutter, right + gutter),
            };
            let _ = write!(
                svg,
                "<line x1=\"{near:.0}\" y1=\"{y:.0}\" x2=\"{far:.0}\" y2=\"{y:.0}\"/>\n{}",
                label(
                    far + if side == 0 { 1.0 } else { -1.0 } * GUTTER / 2.0,
                    y,
                    "middle"
                )
            );
            let inside = if side == 0 { near + 5.0 } else { near - 5.0 };
            boxes_of_nics.push_str(&nic(record, index, 1, inside, y + 4.0, side == 0));
            let lines = node_lines(node);
            let box_height = lines.len() as f64 * LINE + 8.0;
            let from = y - box_height / 2.0;
            let _ = writeln!(
                boxes,
                "<rect class=\"node\" x=\"{x:.0}\" y=\"{from:.0}\" width=\"{node_width:.0}\" height=\"{box_height:.0}\" rx=\"4\"/>"
            );
            for (row, line) in lines.iter().enumerate() {
                let class = if row == 0 { "name" } else { "address" };
                let _ = writeln!(
                    boxes,
                    "<text class=\"{class}\" x=\"{:.0}\" y=\"{:.0}\">{}</text>",
                    x + 7.0,
                    from + (row as f64 + 1.0) * LINE,
                    text(line)
                );
            }
        } else if let Some(Route::Direct {
            side,
            lane,
            from,
            to,
            is_down,
        }) = routes[index]
        {
            let (edge, way) = match side {
                0 => (left, -1.0),
                _ => (right, 1.0),
            };
            // Out of the box, along it, and into the other one, with round corners.
            let corner = CORNER.min((to - from).abs() / 2.0);
            let (out, before) = (
                edge + way * (39.0 + LANE * lane),
                edge + way * (39.0 + LANE * lane - corner),
            );
            let down = corner * (to - from).signum();
            let _ = write!(
                svg,
                "<path d=\"M{edge:.0} {from:.0} H{before:.0} Q{out:.0} {from:.0} {out:.0} {:.0} V{:.0} Q{out:.0} {to:.0} {before:.0} {to:.0} H{edge:.0}\"/>\n{}",
                from + down,
                to - down,
                label(
                    out + way * 6.0,
                    beside_lines(f64::midpoint(from, to), side, lane, &routes),
                    if way > 0.0 { "start" } else { "end" }
                )
            );
            let at_ends = if is_down { [from, to] } else { [to, from] };
            for (end, y) in at_ends.into_iter().enumerate() {
                boxes_of_nics.push_str(&nic(record, index, end, edge - way * 5.0, y + 4.0, way < 0.0));
            }
        }
    }
    for (index, place) in places.iter().enumerate() {
        let (y, middle) = (place.top + place.height / 2.0, f64::midpoint(left, right));
        let name = match places.len() {
            1 => "machine".to_owned(),
            _ => format!("machine {index}"),
        };
        let _ = writeln!(
            boxes,
            "<rect class=\"machine\" x=\"{left:.0}\" y=\"{:.0}\" width=\"{MACHINE_WIDTH:.0}\" height=\"{:.0}\" rx=\"4\"/>\n\
             <text class=\"name\" x=\"{middle:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{name}</text>",
            place.top,
            place.height,
            y + 4.0,
        );
    }
    svg.push_str(&boxes);
    svg.push_str(&boxes_of_nics);
    svg.push_str("</svg>\n");
    svg
}

/// The height nearest to `y` at which no other line crosses the label of a direct link.
fn beside_lines(y: f64, side: usize, lane: f64, routes: &[Option<Route>]) -> f64 {
    let is_beside = |line: f64, y: f64| (line - y).abs() > LABEL;
    let is_free = |y: f64| {
        routes.iter().flatten().all(|route| match *route {
            Route::ToNode { side: of, y: line } => of != side || is_beside(line, y),
            // Links of lanes further out cross this lane horizontally.
            Route::Direct {
                side: of,
                lane: other,
                from,
                to,
                ..
            } => of != side || other <= lane || (is_beside(from, y) && is_beside(to, y)),
        })
    };
    let mut near = (0..10).flat_map(|step| [y + 6.0 * f64::from(step), y - 6.0 * f64::from(step)]);
    near.find(|y| is_free(*y)).unwrap_or(y)
}

/// The name of a NIC, within the box of its machine.
fn nic(record: &Record, link: usize, end: usize, x: f64, y: f64, is_left: bool) -> String {
    let ends = |link: usize| record.links.get(link).map_or(&[][..], |link| &link.ends);
    let Some(this) = ends(link).get(end) else {
        return String::new();
    };
    let before = (0..link).flat_map(ends).chain(&ends(link)[..end]);
    let number = before.filter(|other| other.machine == this.machine).count();
    format!(
        "<text class=\"nic\" x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{}\">nic {number}<title>{}</title></text>\n",
        if is_left { "start" } else { "end" },
        text(this.mac.as_deref().unwrap_or("NIC"))
    )
}

fn node_of(link: &Link) -> Option<&End> {
    link.ends.first().filter(|end| end.node.is_some())
}

fn machine_at(link: &Link, end: usize) -> Option<usize> {
    link.ends.get(end)?.machine
}

fn node_lines(node: &End) -> Vec<String> {
    let mut lines = vec![format!("node {}", node.node.unwrap_or_default())];
    lines.extend(node.addresses.iter().take(2).cloned());
    if let Some(more @ 1..) = node.addresses.len().checked_sub(2) {
        lines.push(format!("and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::Machine;

    fn end(node: Option<usize>, machine: Option<usize>, addresses: &[&str]) -> End {
        End {
            node,
            machine,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            ..End::default()
        }
    }

    fn link(ends: [End; 2]) -> Link {
        Link {
            ends: ends.into(),
            ..Link::default()
        }
    }

    #[test]
    fn shows_each_machine_each_link_and_each_node_with_its_addresses() {
        let record = Record {
            machines: vec![Machine::default(), Machine::default()],
            links: vec![
                link([
                    end(Some(0), None, &["192.168.0.1/24", "2001:db8::1/64"]),
                    end(None, Some(0), &[]),
                ]),
                link([end(None, Some(0), &[]), end(None, Some(1), &[])]),
                link([end(Some(2), None, &["<b>"]), end(None, Some(1), &[])]),
            ],
            ..Record::default()
        };
        let frames = |frames| Summary {
            frames,
            ..Summary::default()
        };
        let svg = picture(&record, &[frames(7), frames(8), frames(9)]);
        for part in [
            ">machine 0<",
            ">machine 1<",
            ">node 0<",
            ">192.168.0.1/24<",
            ">2001:db8::1/64<",
            ">node 2<",
            ">&lt;b&gt;<",
            ">link 1<",
            ">7 fr.<",
            ">8 fr.<",
            ">9 fr.<",
        ] {
            assert_eq!(svg.matches(part).count(), 1, "{part} in {svg}");
        }
        // Each machine counts its own.
        assert_eq!(
            (svg.matches(">nic 0<").count(), svg.matches(">nic 1<").count()),
            (2, 2),
            "{svg}"
        );
        // The direct link is a curve, the others are lines.
        assert_eq!(
            (svg.matches("<path").count(), svg.matches("<line").count()),
            (1, 2)
        );
    }
}
