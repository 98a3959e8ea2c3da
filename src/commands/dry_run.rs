//! `export --dry-run`: reports what an export would do, without sending a request or writing a file.

use crate::{
    api::RequestLimiter,
    archive::Archive,
    config::ExportConfig,
    error::Result,
    export::{ListState, NotFoundPolicy, Plan, tasks_lacking_assets},
    input,
    report::{self, Reporter},
};

/// Returns a report for the user: the number of tasks that an export of the list would fetch, and the estimated time.
///
/// # Errors
/// Returns any error that an export can encounter before its first request.
pub fn dry_run(config: &ExportConfig, reporter: &mut dyn Reporter) -> Result<String> {
    let input = input::read(&config.input, &mut |event| reporter.observe(&event))?;
    let (archived, missing_assets) = match Archive::open_if_present(&config.run.archive, config.format)? {
        Some(archive) => {
            let journalled = ListState::journalled(&archive, &input.tasks)?;
            let archived =
                ListState::archived(&archive, &input.tasks, NotFoundPolicy::from_config(config))?.merge(&journalled);
            (archived, tasks_lacking_assets(&archive, &input.tasks, &config.run.media.kinds)?)
        }
        None => (ListState::empty(&input.tasks), Vec::new()),
    };
    let empty = ListState::empty(&input.tasks);
    let plan = Plan::from_list(input, &archived, &empty, missing_assets);
    let missing_assets = plan.stored.len() as u64;
    let rate = RequestLimiter::requests_per_second(config.run.rate, config.run.reserve);
    Ok(report::plan_table(&plan.counts, missing_assets, &config.run, rate))
}
