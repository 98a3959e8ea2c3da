//! `export --dry-run`: what an export would do. It sends nothing and writes nothing.

use crate::{
    api::Pace,
    archive::Archive,
    config::ExportConfig,
    error::Result,
    export::{Known, NotFound, Plan},
    input,
    report::{self, Reporter},
};

/// What an export of this list would ask for, and how long that takes at its rate, as text for a person.
///
/// # Errors
/// What an export would refuse before its first request.
pub async fn dry_run(config: &ExportConfig, reporter: &mut dyn Reporter) -> Result<String> {
    let input = input::read(&config.input, &mut |event| reporter.observe(&event))?;
    let known = match Archive::open_if_present(&config.archive, config.format)? {
        Some(archive) => {
            let journalled = Known::journalled(&archive, &input.tasks)?;
            Known::archived(&archive, &input.tasks, NotFound::of(config)).await?.or(&journalled)
        }
        None => Known::nothing(&input.tasks),
    };
    let nothing = Known::nothing(&input.tasks);
    let plan = Plan::new(input, &known, &nothing);
    Ok(report::plan_table(&plan.counts, config, Pace::requests_per_second(config.rate, config.reserve)))
}
