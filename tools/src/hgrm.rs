//! Percentiles as text, in the form that the plotters of HdrHistogram read.

use core::fmt::Write as _;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

use crate::report::{Failure, write_file};

/// `FILE` for one size, `FILE` with the size before its ending for several.
pub(crate) fn path_for(path: &Path, size: usize, sizes: usize) -> PathBuf {
    if sizes < 2 {
        return path.to_path_buf();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    path.with_file_name(format!("{stem}-{size}{ending}"))
}

/// The percentile distribution in the text form of HdrHistogram.
pub(crate) fn write(path: &Path, trips: &Histogram<u64>) -> Result<(), Failure> {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    for step in trips.iter_quantiles(5) {
        let quantile = step.quantile_iterated_to();
        let total = trips.count_between(0, step.value_iterated_to());
        let value = step.value_iterated_to();
        write!(text, "{value:>12.3} {quantile:>2.12} {total:>10}")?;
        if quantile < 1.0 {
            write!(text, " {:>14.2}", 1.0 / (1.0 - quantile))?;
        }
        text.push('\n');
    }
    writeln!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]",
        trips.mean(),
        trips.stdev()
    )?;
    writeln!(text, "#[Max     = {:>12}, Total count    = {:>12}]", trips.max(), trips.len())?;
    writeln!(text, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", trips.buckets(), 2048)?;
    write_file("--hgrm", path, &text)
}
