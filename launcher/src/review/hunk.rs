//! Line differences: hunks in unified form, and counts of lines.
//!
//! Works on bytes, in memory; the callers bound their size.

use std::io::{self, Write};
use std::ops::Range;

use imara_diff::{Algorithm, Diff, InternedInput};

use super::style::{Paint, Style};

/// Lines shown around a change.
const CONTEXT_LINES: u32 = 3;

/// The line difference between two texts.
pub struct LineDiff<'a> {
    input: InternedInput<&'a [u8]>,
    hunks: Vec<(Range<u32>, Range<u32>)>,
}

impl<'a> LineDiff<'a> {
    /// Compares by lines, each with its line end.
    pub fn new(before: &'a [u8], after: &'a [u8]) -> Self {
        let input = InternedInput::new(before, after);
        let mut diff = Diff::compute(Algorithm::Histogram, &input);
        diff.postprocess_lines(&input);
        let mut hunks: Vec<_> = diff.hunks().map(|hunk| (hunk.before, hunk.after)).collect();
        if !is_script(&input, &hunks) {
            // A patch must reproduce the branch whatever the diff library thinks.
            hunks = vec![(0..len(&input.before), 0..len(&input.after))];
        }
        LineDiff { input, hunks }
    }

    /// Lines added and lines removed.
    pub fn counts(&self) -> (u64, u64) {
        self.hunks
            .iter()
            .fold((0, 0), |(added, removed), (before, after)| {
                (
                    added + u64::from(after.end - after.start),
                    removed + u64::from(before.end - before.start),
                )
            })
    }

    /// Writes the hunks.
    pub fn write(&self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let mut rest = &self.hunks[..];
        while !rest.is_empty() {
            let near = |pair: &[(Range<u32>, Range<u32>)]| {
                pair[1].0.start - pair[0].0.end <= 2 * CONTEXT_LINES
            };
            let joined = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
            self.write_hunk(out, style, &rest[..joined])?;
            rest = &rest[joined..];
        }
        Ok(())
    }

    fn write_hunk(
        &self,
        out: &mut dyn Write,
        style: Style,
        parts: &[(Range<u32>, Range<u32>)],
    ) -> io::Result<()> {
        let (Some((first_old, first_new)), Some((last_old, last_new))) =
            (parts.first(), parts.last())
        else {
            return Ok(());
        };
        let lead = CONTEXT_LINES.min(first_old.start);
        let trail = CONTEXT_LINES.min(len(&self.input.before) - last_old.end);
        let old = first_old.start - lead..last_old.end + trail;
        let new = first_new.start - lead..last_new.end + trail;
        let header = format!("@@ -{} +{} @@", span(&old), span(&new));
        style.line(out, Paint::Hunk, header.as_bytes())?;
        let mut at = old.start;
        for (before, after) in parts {
            self.write_lines(out, style, Paint::Context, false, at..before.start)?;
            self.write_lines(out, style, Paint::Removed, false, before.clone())?;
            self.write_lines(out, style, Paint::Added, true, after.clone())?;
            at = before.end;
        }
        self.write_lines(out, style, Paint::Context, false, at..old.end)
    }

    fn write_lines(
        &self,
        out: &mut dyn Write,
        style: Style,
        paint: Paint,
        new: bool,
        lines: Range<u32>,
    ) -> io::Result<()> {
        let tokens = if new {
            &self.input.after
        } else {
            &self.input.before
        };
        let sign = match paint {
            Paint::Added => b'+',
            Paint::Removed => b'-',
            Paint::Context | Paint::Header | Paint::Hunk => b' ',
        };
        let mut text = Vec::new();
        for token in &tokens[lines.start as usize..lines.end as usize] {
            let line: &[u8] = self.input.interner[*token];
            text.clear();
            text.push(sign);
            text.extend_from_slice(line.strip_suffix(b"\n").unwrap_or(line));
            style.line(out, paint, &text)?;
            if !line.ends_with(b"\n") {
                out.write_all(b"\\ No newline at end of file\n")?;
            }
        }
        Ok(())
    }
}

/// Whether the lines outside `hunks` are the same on both sides.
fn is_script(input: &InternedInput<&[u8]>, hunks: &[(Range<u32>, Range<u32>)]) -> bool {
    let (mut old, mut new) = (0, 0);
    let end = (
        len(&input.before)..len(&input.before),
        len(&input.after)..len(&input.after),
    );
    for (before, after) in hunks.iter().chain([&end]) {
        let kept_old = input.before.get(old as usize..before.start as usize);
        let kept_new = input.after.get(new as usize..after.start as usize);
        if kept_old.is_none() || kept_old != kept_new {
            return false;
        }
        (old, new) = (before.end, after.end);
    }
    true
}

fn len<T>(lines: &[T]) -> u32 {
    // The callers' bound on bytes is below the number of lines that fit.
    u32::try_from(lines.len()).unwrap_or(u32::MAX)
}

/// A line range as a hunk header has it: counted from 1, the line before if empty.
fn span(lines: &Range<u32>) -> String {
    match lines.end - lines.start {
        0 => format!("{},0", lines.start),
        1 => format!("{}", lines.start + 1),
        n => format!("{},{n}", lines.start + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(before: &str, after: &str) -> String {
        let mut out = Vec::new();
        let lines = LineDiff::new(before.as_bytes(), after.as_bytes());
        lines.write(&mut out, Style::plain()).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_new_and_an_emptied_text_have_zero_spans() {
        assert_eq!(diff("", "a\n"), "@@ -0,0 +1 @@\n+a\n");
        assert_eq!(diff("a\nb\n", ""), "@@ -1,2 +0,0 @@\n-a\n-b\n");
        assert_eq!(diff("a\n", "a\n"), "");
    }

    #[test]
    fn a_missing_line_end_is_marked_on_its_side() {
        let mark = "\\ No newline at end of file\n";
        assert_eq!(diff("a", "a\n"), format!("@@ -1 +1 @@\n-a\n{mark}+a\n"));
        assert_eq!(diff("a\n", "a"), format!("@@ -1 +1 @@\n-a\n+a\n{mark}"));
        assert_eq!(
            diff("x\na", "y\na"),
            format!("@@ -1,2 +1,2 @@\n-x\n+y\n a\n{mark}")
        );
    }

    #[test]
    fn near_changes_share_a_hunk_and_far_ones_do_not() {
        let text = |odd: &[usize]| {
            let line = |n| {
                if odd.contains(&n) {
                    format!("odd {n}\n")
                } else {
                    format!("{n}\n")
                }
            };
            (0..40).map(line).collect::<String>()
        };
        assert_eq!(
            diff(&text(&[]), &text(&[10, 17])).matches("@@ -").count(),
            1
        );
        assert_eq!(
            diff(&text(&[]), &text(&[10, 18])).matches("@@ -").count(),
            2
        );
    }
}
