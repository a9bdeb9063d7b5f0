//! A way out: every kept step as plain safetensors, and what was measured beside it.

use std::path::Path;

use crate::catalog::{CheckpointRow, Filter};
use crate::error::{Context, Result};
use crate::restore::RestoreOptions;
use crate::store::Store;

/// What an export did.
#[derive(Clone, Debug, Default)]
pub struct ExportReport {
    /// Checkpoints written.
    pub written: u64,
    /// Checkpoints that were there already.
    pub skipped: u64,
    /// Bytes written.
    pub bytes: u64,
}

impl Store {
    /// Writes every kept checkpoint of one run, or of all, to `folder/RUN/step-000000012[.safetensors]`, and
    /// `folder/RUN/metrics.jsonl`. What is there already stays, so that an export can be continued.
    pub fn export(&self, run: Option<&str>, folder: &Path) -> Result<ExportReport> {
        let mut report = ExportReport::default();
        let mut metrics: std::collections::BTreeMap<String, String> = Default::default();
        for row in self.log(&Filter { run: run.map(str::to_string), ..Filter::default() })? {
            self.check_stop()?;
            let below = folder.join(&row.run);
            std::fs::create_dir_all(&below).context("create folder", &below)?;
            let lines = metrics.entry(row.run.clone()).or_default();
            lines.push_str(&line(&row));
            lines.push('\n');
            let checkpoint = self.checkpoint_of(row.clone())?;
            let ending = if checkpoint.is_folder() { "" } else { ".safetensors" };
            let output = below.join(format!("step-{:09}{ending}", row.step));
            if output.exists() {
                report.skipped += 1;
                continue;
            }
            report.bytes += checkpoint.restore(&output, &RestoreOptions::default())?.bytes;
            report.written += 1;
        }
        for (run, lines) in metrics {
            let path = folder.join(run).join("metrics.jsonl");
            std::fs::write(&path, lines).context("write", &path)?;
        }
        Ok(report)
    }
}

fn line(row: &CheckpointRow) -> String {
    let line = serde_json::json!({ "step": row.step, "time": row.created.to_rfc3339(), "tags": row.tags, "metrics": row.metrics });
    line.to_string()
}
