//! Shows progress bars on a terminal, with warnings above the bars.

use std::io::Write;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::{
    Reporter,
    lines::RepeatLimit,
    messages::{rest, size, transfer},
    sentence::{Weight, sentence},
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

    fn say(&mut self, event: &Event, line: String) {
        let bars = &self.all;
        // A closed terminal must not end the run.
        self.limit.say(event, line, |line| bars.suspend(|| drop(writeln!(std::io::stderr(), "{line}"))));
    }

    fn show(&mut self, progress: &Progress) {
        if let Some(bar) = &self.tasks {
            bar.set_position(progress.settled);
            bar.set_message(rest(progress));
        }
        let downloads = &progress.downloads;
        if downloads.wanted > 0 {
            let bar = self.files.get_or_insert_with(|| self.all.add(bar("files", downloads.wanted)));
            bar.set_length(downloads.wanted);
            bar.set_position(downloads.settled);
            bar.set_message(transfer(downloads));
        }
    }

    fn check(&mut self, Checking { what, done, of, bytes }: &Checking) {
        // A single bar shows first the progress of parts and then the progress of files.
        let bar = self.files.get_or_insert_with(|| self.all.add(bar("checked", *of)));
        bar.set_length(*of);
        bar.set_position(*done);
        bar.set_message(format!(" {what}, {}", size(*bytes)));
    }

    fn rewrite(&mut self, Rewriting { table, what, done, of }: &Rewriting) {
        let bar = self.files.get_or_insert_with(|| self.all.add(bar("", *of)));
        bar.set_length(*of);
        bar.set_position(*done);
        bar.set_message(format!("{what}, {table}"));
    }
}

fn bar(what: &str, length: u64) -> ProgressBar {
    let template = format!("{{bar:30}} {{pos}}/{{len}} {what}{{msg}}");
    let style = ProgressStyle::with_template(&template).expect("a valid template");
    ProgressBar::new(length).with_style(style.progress_chars("█▌░"))
}

impl Reporter for Bars {
    fn observe(&mut self, event: &Event) {
        match event {
            Event::Planned(planned) if planned.selected > 0 => {
                self.tasks = Some(self.all.add(bar("tasks", planned.selected)));
            }
            Event::Progress(progress) => self.show(progress),
            Event::Checking(checking) => self.check(checking),
            Event::Rewriting(rewriting) => self.rewrite(rewriting),
            Event::Finished { .. } => {
                [&self.tasks, &self.files].into_iter().flatten().for_each(ProgressBar::finish_and_clear);
            }
            _ => {
                if let Some((Weight::Warning, line)) = sentence(event) {
                    self.say(event, line);
                } else if let (Event::Resuming { .. } | Event::Recovered { .. }, Some((_, line))) =
                    (event, sentence(event))
                {
                    self.say(event, line);
                }
            }
        }
    }
}
