//! Shows progress bars on a terminal, with warnings above the bars.

use std::io::Write;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{
    Reporter,
    event_messages::{Importance, render},
    lines::RepeatLimit,
    messages::{format_remaining, format_transfer, size},
};
use crate::event::{Checking, Event, Progress, Rewriting};

pub(super) struct Bars {
    all: MultiProgress,
    tasks: Option<ProgressBar>,
    files: Option<ProgressBar>,
    limit: RepeatLimit,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self { all: MultiProgress::new(), tasks: None, files: None, limit: RepeatLimit::default() }
    }

    fn print_line(&mut self, event: &Event, line: String) {
        let bars = &self.all;
        // A closed terminal must not end the run.
        self.limit.write_limited(event, line, |line| bars.suspend(|| drop(writeln!(std::io::stderr(), "{line}"))));
    }

    fn show_progress(&mut self, progress: &Progress) {
        if let Some(bar) = &self.tasks {
            bar.set_position(progress.settled);
            bar.set_message(format_remaining(progress));
        }
        let downloads = &progress.downloads;
        if downloads.expected > 0 {
            let bar = self.files.get_or_insert_with(|| self.all.add(bar("files", downloads.expected)));
            bar.set_length(downloads.expected);
            bar.set_position(downloads.settled);
            bar.set_message(format_transfer(downloads));
        }
    }

    fn show_check(&mut self, Checking { phase, done, total, bytes }: &Checking) {
        // The bar first shows how many parts have been checked, and later how many files.
        let bar = self.files.get_or_insert_with(|| self.all.add(bar("checked", *total)));
        bar.set_length(*total);
        bar.set_position(*done);
        bar.set_message(format!(" {phase}, {}", size(*bytes)));
    }

    fn show_rewrite(&mut self, Rewriting { table, label, done, total }: &Rewriting) {
        let bar = self.files.get_or_insert_with(|| self.all.add(bar("", *total)));
        bar.set_length(*total);
        bar.set_position(*done);
        bar.set_message(format!("{label}, {table}"));
    }
}

fn bar(unit: &str, length: u64) -> ProgressBar {
    let template = format!("{{bar:30}} {{pos}}/{{len}} {unit}{{msg}}");
    let style = ProgressStyle::with_template(&template).expect("a valid template");
    ProgressBar::new(length).with_style(style.progress_chars("█▌░"))
}

impl Reporter for Bars {
    fn observe(&mut self, event: &Event) {
        match event {
            Event::Planned(planned) if planned.selected > 0 => {
                self.tasks = Some(self.all.add(bar("tasks", planned.selected)));
            }
            Event::Progress(progress) => self.show_progress(progress),
            Event::Checking(checking) => self.show_check(checking),
            Event::Rewriting(rewriting) => self.show_rewrite(rewriting),
            Event::Finished { .. } => {
                [&self.tasks, &self.files].into_iter().flatten().for_each(ProgressBar::finish_and_clear);
            }
            _ => {
                if let Some((Importance::Warning, line)) = render(event) {
                    self.print_line(event, line);
                } else if let (Event::Resuming { .. } | Event::Recovered { .. }, Some((_, line))) =
                    (event, render(event))
                {
                    self.print_line(event, line);
                }
            }
        }
    }
}
