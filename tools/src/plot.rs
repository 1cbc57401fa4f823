//! Plots, as SVG files.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::prelude::*;

use crate::report::{Failure, write_file};

const SIZE: (u32, u32) = (960, 540);

fn colour(index: usize) -> RGBColor {
    const COLOURS: [RGBColor; 6] = [
        RGBColor(0x1F, 0x77, 0xB4),
        RGBColor(0xAA, 0xAA, 0xAA),
        RGBColor(0xD6, 0x27, 0x28),
        RGBColor(0xC8, 0xC8, 0xC8),
        RGBColor(0x2C, 0xA0, 0x2C),
        RGBColor(0xE0, 0xE0, 0xE0),
    ];
    COLOURS.iter().cycle().nth(index).copied().unwrap_or(BLACK)
}

fn failed(path: &Path) -> impl Fn(&dyn core::fmt::Display) -> Failure {
    let path = path.display().to_string();
    move |e| format!("--plot {path}: {e}").into()
}

/// Latency by percentile: the x axis is 1/(1-percentile), so that each nine is as wide as the one before.
pub(crate) fn percentiles(
    path: &Path,
    curves: &[(String, &Histogram<u64>)],
) -> Result<(), Failure> {
    let failed = failed(path);
    let points = |histogram: &Histogram<u64>| -> Vec<(f64, f64)> {
        histogram
            .iter_quantiles(10)
            .filter(|step| step.quantile_iterated_to() < 1.0)
            .map(|step| {
                (1.0 / (1.0 - step.quantile_iterated_to()), float(step.value_iterated_to()))
            })
            .collect()
    };
    let drawn: Vec<_> = curves.iter().map(|(label, h)| (label, points(h))).collect();
    let all = || drawn.iter().flat_map(|(_, points)| points.iter());
    let right = all().map(|p| p.0).fold(10.0, f64::max);
    let top = all().map(|p| p.1).fold(1.0, f64::max) * 1.2;
    let bottom = all().map(|p| p.1).fold(f64::MAX, f64::min).min(top / 2.0) * 0.8;
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .caption("round trip by percentile", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((1.0..right).log_scale(), (bottom..top).log_scale())
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("ns")
        .x_label_formatter(&|x| {
            format!("{:.6}", 100.0 * (1.0 - 1.0 / x))
                .trim_end_matches('0')
                .trim_end_matches('.')
                .to_owned()
                + " %"
        })
        .y_label_formatter(&|y| format!("{y:.0}"))
        .draw()
        .map_err(|e| failed(&e))?;
    for (index, (label, points)) in drawn.into_iter().enumerate() {
        let style = colour(index).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, style))
            .map_err(|e| failed(&e))?
            .label(label.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))?;
    drop(chart);
    drop(area);
    // The backend itself would not say that a file could not be written.
    write_file("--plot", path, &text)
}

/// Throughput by size: (bytes, our bytes/s, the floor's bytes/s).
pub(crate) fn throughput(path: &Path, points: &[(usize, f64, f64)]) -> Result<(), Failure> {
    let failed = failed(path);
    let sizes = || points.iter().map(|p| float(u64::try_from(p.0).unwrap_or(0)));
    let left = sizes().fold(f64::MAX, f64::min).max(1.0);
    let right = sizes().fold(1.0, f64::max).max(left * 2.0);
    let top = points.iter().map(|p| p.1.max(p.2)).fold(1.0, f64::max) / 1e9 * 1.2;
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(|e| failed(&e))?;
    let mut chart = ChartBuilder::on(&area)
        .caption("throughput by message size", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((left..right).log_scale().base(2.0), 0.0..top)
        .map_err(|e| failed(&e))?;
    chart
        .configure_mesh()
        .x_desc("bytes a message")
        .y_desc("GB/s")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()
        .map_err(|e| failed(&e))?;
    let ours = points.iter().map(|p| p.1);
    let floors = points.iter().map(|p| p.2);
    let curves: [(&str, Vec<f64>); 2] =
        [("messages", ours.collect()), ("bare copy", floors.collect())];
    for (index, (label, rates)) in curves.into_iter().enumerate() {
        let style = colour(index).stroke_width(2);
        let line: Vec<(f64, f64)> = sizes().zip(rates.into_iter().map(|r| r / 1e9)).collect();
        chart
            .draw_series(LineSeries::new(line, style).point_size(3))
            .map_err(|e| failed(&e))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(|e| failed(&e))?;
    area.present().map_err(|e| failed(&e))?;
    drop(chart);
    drop(area);
    // The backend itself would not say that a file could not be written.
    write_file("--plot", path, &text)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "plotted values are far below 2^53"
)]
const fn float(value: u64) -> f64 {
    value as f64
}
