//! Formats the summary of a run as metrics in the Prometheus text format.
//!
//! A metrics file describes one run and replaces the file of the previous run, so every metric is a gauge. The counts
//! of initial requests, polls and retries add up to the total number of requests. Requests that were rate limited (HTTP
//! 429) have a separate metric, because they can be of any kind.

use std::fmt::Write;

use jiff::Timestamp;

use crate::run_summary::RunSummary;

/// Returns the text of the metrics file. `last_success` is the end time of the last run with exit status 0, if there is
/// such a run.
pub(crate) fn metrics(run: &RunSummary, last_success: Option<Timestamp>) -> String {
    let (tasks, assets, rows, requests) = (&run.tasks, &run.assets, &run.rows, &run.requests);
    let mut text = MetricsText::default();
    text.labelled_gauge(
        "tasks",
        "Tasks that the last run selected, by outcome; success, failure, timeout and not_found are archived.",
        "status",
        &[
            ("success", tasks.success),
            ("failure", tasks.failure),
            ("timeout", tasks.timeout),
            ("not_found", tasks.not_found),
            ("unfinished", tasks.unfinished),
            ("unreadable", tasks.unreadable),
            ("errors", tasks.errors),
        ],
    );
    text.labelled_gauge(
        "assets",
        "Audio, covers and videos of the tasks that the last run archived, by outcome.",
        "status",
        &[("ok", assets.ok), ("failed", assets.failed), ("skipped", assets.skipped)],
    );
    text.gauge("asset_bytes", "Total size in bytes of the assets with status ok.", assets.bytes as f64);
    text.labelled_gauge(
        "rows",
        "Rows that the last run archived for its selected tasks, by table.",
        "table",
        &[("tasks", rows.tasks), ("clips", rows.clips), ("lyrics", rows.lyrics), ("assets", rows.assets)],
    );
    text.labelled_gauge(
        "requests",
        "API requests of the last run, by kind: initial request, poll of an unfinished task, or retry.",
        "kind",
        &[
            ("first", requests.total - requests.polls - requests.retries),
            ("poll", requests.polls),
            ("retry", requests.retries),
        ],
    );
    text.gauge(
        "rate_limited_requests",
        "API requests of the last run, of any kind, that were rate limited (HTTP 429).",
        requests.rate_limited as f64,
    );
    text.gauge("exit_code", "Exit status of the last run.", f64::from(run.exit_code));
    if let Some(duration) = run.run_seconds {
        text.gauge("run_seconds", "Duration of the last run in seconds.", duration);
    }
    if let Some(finished) = run.finished_at {
        text.gauge("finished_timestamp_seconds", "Unix time at which the last run ended.", seconds(finished));
    }
    if let Some(success) = last_success {
        let help = "Unix time at which a run of this archive last ended with exit status 0; absent if no run has.";
        text.gauge("last_success_timestamp_seconds", help, seconds(success));
    }
    text.0
}

/// Converts a timestamp to seconds since the Unix epoch, with millisecond precision.
fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

#[derive(Default)]
struct MetricsText(String);

impl MetricsText {
    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.write_header(name, help);
        let _ = writeln!(self.0, "sunor_archive_{name} {value}");
    }

    /// Adds a metric with one sample per label value. Label values need no escaping, because they are constants of this
    /// program.
    fn labelled_gauge(&mut self, name: &str, help: &str, label: &str, samples: &[(&str, u64)]) {
        self.write_header(name, help);
        for (value, count) in samples {
            let _ = writeln!(self.0, "sunor_archive_{name}{{{label}=\"{value}\"}} {count}");
        }
    }

    fn write_header(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP sunor_archive_{name} {help}\n# TYPE sunor_archive_{name} gauge");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::Event,
        format::TableFormat,
        report::{ClosingNotes, run_table},
    };

    /// Durations are measured with the monotonic clock, so setting the wall clock during a run does not affect them.
    #[test]
    fn setting_the_clock_does_not_change_durations() {
        for finished in ["2026-01-02T02:00:00Z", "2026-01-03T03:00:00Z"] {
            let mut run = RunSummary::default();
            let start: Timestamp = "2026-01-02T03:00:00Z".parse().unwrap();
            let run_id = crate::run_id::RunId::new(start);
            run.observe(&Event::Started { run_id, archive: "library".into(), at: start });
            let at = finished.parse().unwrap();
            run.observe(&Event::Finished { at, run_seconds: 62.5, exit_code: 0, interrupted: false });
            let text = metrics(&run, None);
            assert!(text.contains("\nsunor_archive_run_seconds 62.5\n"), "{text}");
            let notes = ClosingNotes {
                archive: "library",
                format: TableFormat::Parquet,
                none_found: false,
                missing_list_written: true,
                still_journalled: 0,
                failed_before: 0,
                refetched: 0,
            };
            let message = run_table(&run, &notes);
            assert!(message.lines().next().unwrap().ends_with(" in 1m 3s"), "{message}");
            assert_eq!(run.finished_at, Some(at));
        }
    }

    #[test]
    fn request_counts_add_up_and_unknown_values_are_omitted() {
        let mut run = RunSummary::default();
        (run.requests.total, run.requests.polls, run.requests.retries) = (10, 3, 2);
        let text = metrics(&run, None);
        for line in ["{kind=\"first\"} 5", "{kind=\"poll\"} 3", "{kind=\"retry\"} 2"] {
            assert!(text.contains(&format!("\nsunor_archive_requests{line}\n")), "{text}");
        }
        assert!(!text.contains("timestamp"), "{text}");
        run.finished_at = Some("2026-01-02T03:04:05.678Z".parse().unwrap());
        run.run_seconds = Some(5.678);
        let text = metrics(&run, run.finished_at);
        assert!(text.contains("\nsunor_archive_run_seconds 5.678\n"), "{text}");
        assert!(text.ends_with("\nsunor_archive_last_success_timestamp_seconds 1767323045.678\n"), "{text}");
    }
}
