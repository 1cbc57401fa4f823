//! The report for tools.

use super::Report;

/// Prints the report as one JSON object.
pub(crate) fn print(report: &Report<'_>) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(report)?);
    Ok(())
}
