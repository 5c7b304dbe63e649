//! `diff --stat`: a graph of changed lines per file.

use std::fmt::Write as _;

use super::patch::Extent;
use super::plan::{Item, Status};
use super::style::{Paint, Style, escape_word};
use super::table::{fit_path, width};

/// One file's line.
pub struct Line {
    name: String,
    extent: Extent,
}

impl Line {
    /// The line of an item that changes by `extent`.
    pub fn new(item: &Item<'_>, extent: Extent) -> Self {
        let mut name = escape_word(&item.path);
        if let (Status::Renamed, Some(from)) = (item.status, &item.from) {
            name = format!("{} => {name}", escape_word(from));
        } else if item.is_dir() {
            name.push('/');
        }
        if item.host_changed() {
            name.push_str(" (host changed)");
        }
        Line { name, extent }
    }
}

/// The lines and the total, to fit `columns`.
pub fn render(lines: &[Line], columns: usize, style: Style) -> String {
    let count = |line: &Line| match line.extent {
        Extent::Lines(added, removed) => (added + removed).to_string(),
        Extent::Binary(..) => "Bin".to_owned(),
    };
    let count_width = lines
        .iter()
        .map(|line| count(line).len())
        .max()
        .unwrap_or(0);
    // " name | count graph": what is left after the frame goes to names first, then to the graph.
    let room = columns.saturating_sub(count_width + 5);
    let longest = lines
        .iter()
        .map(|line| width(&line.name))
        .max()
        .unwrap_or(0);
    let name_width = longest.min((room * 5 / 8).max(16));
    let graph_width = room.saturating_sub(name_width).max(6) as u64;
    let changed = |line: &Line| match line.extent {
        Extent::Lines(added, removed) => added + removed,
        Extent::Binary(..) => 0,
    };
    let most = lines.iter().map(changed).max().unwrap_or(0);
    let scale = |n: u64| {
        if most <= graph_width || n == 0 {
            n
        } else {
            (n * graph_width / most).max(1)
        }
    };
    let (mut text, mut added_sum, mut removed_sum) = (String::new(), 0, 0);
    for line in lines {
        let name = fit_path(&line.name, name_width);
        let pad = " ".repeat(name_width.saturating_sub(width(&name)));
        let _ = write!(text, " {name}{pad} | {:>count_width$}", count(line));
        match line.extent {
            Extent::Lines(0, 0) => {}
            Extent::Lines(added, removed) => {
                let (plus, minus) = (scale(added) as usize, scale(removed) as usize);
                let _ = write!(
                    text,
                    " {}{}",
                    style.painted(Paint::Added, &"+".repeat(plus)),
                    style.painted(Paint::Removed, &"-".repeat(minus)),
                );
                added_sum += added;
                removed_sum += removed;
            }
            Extent::Binary(before, after) => {
                let _ = write!(text, " {before} -> {after} bytes");
            }
        }
        text.push('\n');
    }
    let _ = write!(
        text,
        " {} {} changed",
        lines.len(),
        plural(lines.len() as u64, "file")
    );
    if added_sum > 0 || removed_sum == 0 {
        let _ = write!(text, ", {added_sum} {}(+)", plural(added_sum, "insertion"));
    }
    if removed_sum > 0 || added_sum == 0 {
        let _ = write!(
            text,
            ", {removed_sum} {}(-)",
            plural(removed_sum, "deletion")
        );
    }
    text.push('\n');
    text
}

/// `word`, with an `s` unless there is one.
pub fn plural(count: u64, word: &str) -> String {
    if count == 1 {
        word.to_owned()
    } else {
        format!("{word}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graph_is_scaled_to_the_width() {
        let line = |name: &str, extent| Line {
            name: name.into(),
            extent,
        };
        let lines = [
            line("src/a.rs", Extent::Lines(100, 0)),
            line("b", Extent::Lines(1, 1)),
            line("c.bin", Extent::Binary(0, 12)),
        ];
        let text = render(&lines, 40, Style::plain());
        let rows: Vec<&str> = text.lines().collect();
        assert!(
            rows[0].starts_with(" src/a.rs | 100 +++") && rows[0].len() <= 40,
            "{}",
            rows[0]
        );
        assert_eq!(rows[1], " b        |   2 +-");
        assert_eq!(rows[2], " c.bin    | Bin 0 -> 12 bytes");
        assert_eq!(
            rows[3],
            " 3 files changed, 101 insertions(+), 1 deletion(-)"
        );
    }
}
