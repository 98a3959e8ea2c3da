//! One file a verb. Each takes what it needs as values and gives an outcome, so that a program that
//! links the library calls exactly what the command line calls.

pub mod compact;
pub mod dry_run;
pub mod export;
mod metrics;
pub mod rebuild;
pub mod repair;
pub mod simulate;
pub mod summary;
pub mod verify;

use std::{sync::Arc, time::Duration};

use crate::{
    api::Client,
    archive::LockedArchive,
    config::{ApiKey, MediaConfig, Provider},
    error::Result,
    event::MissingReason,
    export::MediaStage,
    media::{self, HostPolicy, Limits},
    simulator::{self, SimulatedProvider, Simulator},
};

/// The stage that downloads, which may go as far as the API's own host suggests.
async fn start_media(config: &MediaConfig, provider: &Provider, held: &Arc<LockedArchive>) -> Result<MediaStage> {
    let private = match (&config.private_hosts, provider) {
        (Some(allowed), _) => *allowed,
        (None, Provider::Simulated) => true,
        (None, Provider::Remote { base_url, .. }) => media::is_private_host(base_url).await,
    };
    let limits = Limits {
        places: config.concurrency.into(),
        max_bytes: config.max_size,
        retries: config.retries,
        idle: config.idle,
    };
    MediaStage::start(held.clone(), if private { HostPolicy::Private } else { HostPolicy::Public }, limits)
}

/// A list of tasks that are not archived, each with why, which is itself an input.
fn missing_csv<T: AsRef<str>>(missing: impl Iterator<Item = (T, MissingReason, T)>) -> Vec<u8> {
    let mut csv = csv::Writer::from_writer(Vec::new());
    // Memory takes all that is written.
    let _ = csv.write_record(["task_id", "reason", "detail"]);
    for (task_id, reason, detail) in missing {
        let _ = csv.write_record([task_id.as_ref(), reason.as_str(), detail.as_ref()]);
    }
    csv.into_inner().expect("memory takes all that is written")
}

/// The client, and the simulator of that world that answers it if one was requested; it ends when it is dropped.
async fn connect_to(
    provider: &Provider,
    timeout: Duration,
    world: SimulatedProvider,
) -> Result<(Client, Option<Simulator>)> {
    match provider {
        Provider::Remote { base_url, key } => Ok((Client::new(base_url, key.clone(), timeout)?, None)),
        Provider::Simulated => {
            let simulator = Simulator::start(world).await?;
            let client = Client::new(simulator.base_url(), ApiKey::new(simulator::KEY)?, timeout)?;
            Ok((client, Some(simulator)))
        }
    }
}
