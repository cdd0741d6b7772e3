// SPDX-License-Identifier: GPL-3.0-or-later
//! Tables for people.

/// Rows under a head, each column as wide as its widest cell; columns named in `right` are aligned to the right.
pub fn render<const N: usize>(head: [&str; N], rows: &[[String; N]], right: &[&str]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    });
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            let width = widths[column];
            let cell = if right.contains(&head[column]) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            };
            line.push_str(&cell);
            line.push_str("  ");
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut table = line(head);
    for row in rows {
        table.push_str(&line(std::array::from_fn(|column| row[column].as_str())));
    }
    table
}

#[cfg(test)]
mod tests {
    #[test]
    fn aligns_columns_and_leaves_no_blanks_at_the_end() {
        let rows = [
            ["rate-limit", "passed", "9.5", "/a"],
            ["x", "timed out", "300.0", ""],
        ]
        .map(|r| r.map(String::from));
        let table = super::render(["test", "verdict", "seconds", "evidence"], &rows, &["seconds"]);
        let expected = "\
test        verdict    seconds  evidence
rate-limit  passed         9.5  /a
x           timed out    300.0
";
        assert_eq!(table, expected);
    }
}
