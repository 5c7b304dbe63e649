//! An earlier run beside this one: what got slower or faster beyond the noise of both.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Fallible;
use crate::report::{Cell, Summary};
use crate::stats::{Spread, chance_of_rise};

/// How rare a rise must be by chance alone, to be told: five rounds against five can show that.
const RARE: f64 = 0.01;

/// Compares with the summary.json, or the directory, of an earlier run. The text for the report.
pub fn with(old: &Path, new: &Summary) -> Fallible<String> {
    let path = match old.is_dir() {
        true => old.join("summary.json"),
        false => old.to_path_buf(),
    };
    let text = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let old: Summary =
        serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    compared(&old, new)
}

fn compared(old: &Summary, new: &Summary) -> Fallible<String> {
    let mut out = String::new();
    writeln!(
        out,
        "With the run of {}: ratios to the host, old and new.\n",
        old.told.started
    )?;
    let (mut slower, mut faster, mut same, mut few) = (Vec::new(), Vec::new(), 0, 0);
    for cell in new.cells.iter().filter(|cell| cell.subject != "host") {
        let Some((was, is)) = old
            .cell(&cell.row, &cell.subject)
            .and_then(|o| figures(o, cell))
        else {
            continue;
        };
        let line = format!(
            "| {} | {} | {:.2} ({:.2} to {:.2}) | {:.2} ({:.2} to {:.2}) |",
            cell.title, cell.subject, was.median, was.min, was.max, is.median, is.min, is.max
        );
        match change(was, is) {
            Change::Slower => slower.push(line),
            Change::Faster => faster.push(line),
            Change::Same => same += 1,
            Change::TooFew => few += 1,
        }
    }
    for (what, lines) in [("**Slower**", &slower), ("Faster", &faster)] {
        writeln!(out, "{what} beyond the noise: {}\n", lines.len())?;
        if !lines.is_empty() {
            writeln!(
                out,
                "| row | subject | old | new |\n|---|---|---|---|\n{}\n",
                lines.join("\n")
            )?;
        }
    }
    write!(out, "Not to be told from noise: {same}.")?;
    if few > 0 {
        write!(out, " Too few runs to tell anything: {few}.")?;
    }
    Ok(out)
}

/// Ratios to the host where both have them, else times.
fn figures<'a>(old: &'a Cell, new: &'a Cell) -> Option<(&'a Spread, &'a Spread)> {
    match (&old.ratio, &new.ratio) {
        (Some(old), Some(new)) => Some((old, new)),
        _ => Some((old.seconds.as_ref()?, new.seconds.as_ref()?)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Slower,
    Faster,
    Same,
    TooFew,
}

/// Beyond the noise is what hardly comes about by chance, and is wider than either run's own middle
/// half: the rank test alone would find the smallest drift between two quiet days.
fn change(old: &Spread, new: &Spread) -> Change {
    let lowest: Vec<f64> = vec![0.0; old.all.len()];
    let highest: Vec<f64> = vec![1.0; new.all.len()];
    if chance_of_rise(&lowest, &highest) > RARE {
        return Change::TooFew;
    }
    let noise = old.middle_half().max(new.middle_half());
    if (new.median - old.median).abs() <= noise {
        Change::Same
    } else if chance_of_rise(&old.all, &new.all) <= RARE {
        Change::Slower
    } else if chance_of_rise(&new.all, &old.all) <= RARE {
        Change::Faster
    } else {
        Change::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change_of(old: &[f64], new: &[f64]) -> Change {
        change(
            &Spread::of(old).expect("old"),
            &Spread::of(new).expect("new"),
        )
    }

    #[test]
    fn only_what_is_beyond_the_noise_is_told() {
        let quiet = [1.0, 1.01, 1.02, 1.01, 1.0];
        let slow = [1.3, 1.31, 1.29, 1.33, 1.3];
        assert_eq!(change_of(&quiet, &slow), Change::Slower);
        assert_eq!(change_of(&slow, &quiet), Change::Faster);
        assert_eq!(change_of(&quiet, &quiet), Change::Same);
        // The same rise in a noisy run says nothing.
        let noisy = [0.8, 1.6, 1.1, 2.0, 1.3];
        assert_eq!(change_of(&noisy, &slow), Change::Same);
        // One outlier does not make a rise, and does not hide one.
        assert_eq!(
            change_of(&quiet, &[1.0, 1.02, 1.01, 1.0, 9.0]),
            Change::Same
        );
        assert_eq!(
            change_of(&quiet, &[1.3, 1.31, 1.29, 1.33, 9.0]),
            Change::Slower
        );
        assert_eq!(change_of(&quiet[..3], &slow[..3]), Change::TooFew);
    }
}
