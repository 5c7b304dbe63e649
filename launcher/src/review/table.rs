//! Plain columns, and short words for sizes, ages and commands.

use std::fmt::Write as _;

use super::style::escape_word;

/// Bytes in at most five characters: `0`, `999`, `1.5K`, `12M`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["K", "M", "G", "T", "P", "E"];
    if bytes < 1000 {
        return bytes.to_string();
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 9.95 {
        format!("{value:.1}{}", UNITS[unit])
    } else {
        format!("{value:.0}{}", UNITS[unit])
    }
}

/// A span of seconds, in its largest unit: `5s`, `12m`, `3h`, `6d`, `20w`.
pub fn age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400..1_209_600 => format!("{}d", seconds / 86_400),
        _ => format!("{}w", seconds / 604_800),
    }
}

/// A command line that a reader can tell words in, safe to show.
pub fn command<'w>(words: impl IntoIterator<Item = &'w [u8]>) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        let bare = |b: &u8| b.is_ascii_alphanumeric() || b"-_./=:,+@%^".contains(b);
        if !word.is_empty() && word.iter().all(bare) {
            line.push_str(&escape_word(word));
        } else {
            let _ = write!(line, "'{}'", escape_word(word).replace('\'', "'\\''"));
        }
    }
    line
}

/// Columns to show of a text: one a character, two for the wide ones of East Asia and emoji.
pub fn width(text: &str) -> usize {
    text.chars().map(columns).sum()
}

fn columns(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f => 0,
        0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff => 2,
        0xfe30..=0xfe6f | 0xff00..=0xff60 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// `text`, its end cut off to fit `columns`.
pub fn fit(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut used = 1;
    for c in text.chars() {
        used += columns(c);
        if used > room {
            break;
        }
        kept.push(c);
    }
    kept + "\u{2026}"
}

/// `text`, its beginning cut off to fit `columns`: of a path the end tells more.
pub fn fit_path(text: &str, room: usize) -> String {
    if width(text) <= room {
        return text.to_owned();
    }
    let mut used = 3;
    let mut kept: Vec<char> = Vec::new();
    for c in text.chars().rev() {
        used += columns(c);
        if used > room {
            break;
        }
        kept.push(c);
    }
    "...".chars().chain(kept.into_iter().rev()).collect()
}

/// Rows as aligned columns, two spaces apart. The last column is cut to fit `terminal_columns`,
/// if there is a terminal; no row ends in spaces.
pub fn render(rows: &[Vec<String>], right: &[usize], terminal_columns: Option<usize>) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |at: usize| {
        rows.iter()
            .filter_map(|row| row.get(at))
            .map(|c| width(c))
            .max()
    };
    let widths: Vec<usize> = (0..count).map(|at| widest(at).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let last = at + 1 == count;
            let cell = match terminal_columns {
                Some(all) if last => fit(cell, all.saturating_sub(width(&line)).max(8)),
                _ => cell.clone(),
            };
            let pad = " ".repeat(widths[at].saturating_sub(width(&cell)));
            if right.contains(&at) {
                line.push_str(&pad);
            }
            line.push_str(&cell);
            if !last {
                if !right.contains(&at) {
                    line.push_str(&pad);
                }
                line.push_str("  ");
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The width of the terminal that stdout is, if it is one.
pub fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_short() {
        let sizes = [
            (0, "0"),
            (999, "999"),
            (1000, "1.0K"),
            (1536, "1.5K"),
            (10_240, "10K"),
        ];
        for (bytes, text) in sizes
            .into_iter()
            .chain([(1 << 20, "1.0M"), (1_048_000, "1.0M")])
        {
            assert_eq!(size(bytes), text);
        }
        for (seconds, text) in [
            (-5, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7200, "2h"),
            (86_400, "1d"),
        ] {
            assert_eq!(age(seconds), text);
        }
    }

    #[test]
    fn a_command_shows_its_words() {
        let words: [&[u8]; 4] = [b"sh", b"-c", b"echo 'hi'", b"\x1b]0;x\x07"];
        assert_eq!(command(words), "sh -c 'echo '\\''hi'\\''' '\\x1b]0;x\\x07'");
    }

    #[test]
    fn columns_align_and_the_last_one_fits() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["NAME", "SIZE", "COMMAND"]),
            row(["b", "1.5K", "a very long command"]),
        ];
        let wide = "NAME  SIZE  COMMAND\nb     1.5K  a very long command\n";
        assert_eq!(render(&rows, &[1], None), wide);
        assert_eq!(
            render(&rows, &[1], Some(22)),
            "NAME  SIZE  COMMAND\nb     1.5K  a very lo\u{2026}\n"
        );
    }

    #[test]
    fn cutting_counts_columns_not_bytes() {
        assert_eq!(
            fit("\u{65e5}\u{672c}\u{8a9e}", 5),
            "\u{65e5}\u{672c}\u{2026}"
        );
        assert_eq!(fit_path("src/deep/file.rs", 10), "...file.rs");
    }
}
