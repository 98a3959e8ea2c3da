//! A bar on a terminal, with warnings above it.

use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    Reporter,
    lines::RepeatLimit,
    sentence::{Weight, sentence},
    words::rest,
};
use crate::event::Event;

pub(super) struct Bars {
    tasks: Option<ProgressBar>,
    limit: RepeatLimit,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self { tasks: None, limit: RepeatLimit::default() }
    }

    fn say(&mut self, event: &Event, line: String) {
        let tasks = &self.tasks;
        self.limit.say(event, line, |line| match tasks {
            Some(bar) => bar.suspend(|| write(&line)),
            None => write(&line),
        });
    }
}

/// A terminal that has gone away must not end the run.
fn write(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} tasks{msg}").expect("a valid template");
    ProgressBar::new(length).with_style(style.progress_chars("█▌░"))
}

impl Reporter for Bars {
    fn observe(&mut self, event: &Event) {
        match event {
            Event::Planned(planned) if planned.selected > 0 => self.tasks = Some(bar(planned.selected)),
            Event::Progress(progress) => {
                if let Some(bar) = &self.tasks {
                    bar.set_position(progress.settled);
                    bar.set_message(rest(progress));
                }
            }
            Event::Finished { .. } => self.tasks.iter().for_each(ProgressBar::finish_and_clear),
            _ => {
                if let Some((Weight::Warning, line)) = sentence(event) {
                    self.say(event, line);
                } else if let (Event::Recovered { .. }, Some((_, line))) = (event, sentence(event)) {
                    self.say(event, line);
                }
            }
        }
    }
}
