//! The table as a picture: a line for each row, a dot for each subject at its ratio to the host.

use std::path::Path;

use plotters::prelude::*;

use crate::Fallible;
use crate::report::Summary;

const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    RGBColor(23, 190, 207),
];
const LINE_PIXELS: u32 = 22;
const WIDTH_PIXELS: u32 = 1000;

/// One dot.
struct Dot {
    line: i32,
    subject: usize,
    ratio: f64,
}

/// Writes the SVG. Nothing to see, nothing written.
pub fn write(path: &Path, summary: &Summary) -> Fallible<()> {
    let subjects: Vec<&String> = summary
        .told
        .subjects
        .iter()
        .filter(|s| *s != "host")
        .collect();
    let mut titles: Vec<String> = Vec::new();
    let (mut dots, mut bars) = (Vec::new(), Vec::new());
    for cell in &summary.cells {
        let Some(ratio) = &cell.ratio else { continue };
        let Some(subject) = subjects.iter().position(|s| **s == cell.subject) else {
            continue;
        };
        let title = cell.title.replace('`', "");
        let line = titles.iter().position(|t| *t == title).unwrap_or_else(|| {
            titles.push(title);
            titles.len() - 1
        });
        if cell.subject == "agentfs"
            && let Some(most) = cell.verdict.as_ref().and_then(|v| v.ratio_to_host())
        {
            bars.push((most, line as i32));
        }
        dots.push(Dot {
            line: line as i32,
            subject,
            ratio: ratio.median,
        });
    }
    if dots.is_empty() {
        return Ok(());
    }
    // The first row on top.
    let lines = titles.len() as i32;
    for dot in &mut dots {
        dot.line = lines - 1 - dot.line;
    }
    for (_, line) in &mut bars {
        *line = lines - 1 - *line;
    }
    titles.reverse();
    draw(path, &titles, &subjects, &dots, &bars)
}

fn draw(
    path: &Path,
    titles: &[String],
    subjects: &[&String],
    dots: &[Dot],
    bars: &[(f64, i32)],
) -> Fallible<()> {
    let lines = titles.len() as i32;
    let height = LINE_PIXELS * titles.len() as u32 + 140;
    let ratios = || dots.iter().map(|dot| dot.ratio);
    let low = ratios().fold(0.5, f64::min) * 0.9;
    // The legend has the right of it to itself.
    let high = ratios().fold(10.0, f64::max) * 6.0;
    let area = SVGBackend::new(path, (WIDTH_PIXELS, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Time as a multiple of the host's (less is better)",
            ("sans-serif", 18),
        )
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(320)
        .build_cartesian_2d((low..high).log_scale(), (0..lines).into_segmented())?;
    let title = |value: &SegmentValue<i32>| match value {
        SegmentValue::CenterOf(line) => titles.get(*line as usize).cloned().unwrap_or_default(),
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .y_labels(titles.len() + 1)
        .y_label_formatter(&title)
        .x_label_formatter(&|ratio| format!("{ratio}x"))
        .x_desc("ratio to the host")
        .draw()?;
    let one = [
        (1.0, SegmentValue::Exact(0)),
        (1.0, SegmentValue::Exact(lines)),
    ];
    chart.draw_series([PathElement::new(one.to_vec(), BLACK)])?;
    for (n, subject) in subjects.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let mine = dots.iter().filter(|dot| dot.subject == n);
        chart
            .draw_series(mine.map(|dot| {
                let at = (dot.ratio, SegmentValue::CenterOf(dot.line));
                Circle::new(at, 4, colour.filled())
            }))?
            .label(subject.as_str())
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
    }
    if !bars.is_empty() {
        chart
            .draw_series(bars.iter().map(|(most, line)| {
                TriangleMarker::new(
                    (*most, SegmentValue::CenterOf(*line)),
                    5,
                    BLACK.stroke_width(1),
                )
            }))?
            .label("bar for agentfs")
            .legend(|(x, y)| TriangleMarker::new((x + 10, y), 5, BLACK.stroke_width(1)));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(area.present()?)
}
