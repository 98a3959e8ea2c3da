//! Implements each command in its own module. A command receives its options as values and returns its outcome, so that
//! the command line and users of the library call the same functions.

pub mod compact;
pub mod dry_run;
pub mod export;
mod metrics;
mod missing;
#[cfg(test)]
mod object_store_tests;
pub mod rebuild;
pub mod repair;
mod run;
pub mod simulate;
pub mod summary;
pub mod verify;

use std::{sync::Arc, time::Duration};

pub use self::run::Outcome;

use crate::{
    api::Client,
    archive::LockedArchive,
    config::{ApiKey, MediaConfig, Provider},
    error::Result,
    export::MediaStage,
    media::{self, Access, HostPolicy, Limits, Scheme},
    proxies::Proxies,
    simulator::{self, SimulatedProvider, Simulator},
};

/// Starts the media stage. By default, downloads from private addresses are allowed only if the API host has a private
/// address.
async fn start_media(config: &MediaConfig, provider: &Provider, archive: &Arc<LockedArchive>) -> Result<MediaStage> {
    let allows_private_hosts = match (&config.allow_private_hosts, provider) {
        (Some(allowed), _) => *allowed,
        (None, Provider::Simulated) => true,
        (None, Provider::Remote { base_url, .. }) => media::is_private_host(base_url).await,
    };
    let limits = Limits {
        slots: config.concurrency.into(),
        max_bytes: config.max_size,
        retries: config.retries,
        idle_timeout: config.idle_timeout,
    };
    let (scheme, proxies) = match provider {
        Provider::Simulated => (Scheme::Http, Proxies::none()),
        Provider::Remote { base_url, proxies, .. } => (Scheme::from_url(base_url), proxies.as_ref().clone()),
    };
    let hosts = if allows_private_hosts { HostPolicy::Private } else { HostPolicy::Public };
    MediaStage::start(archive.clone(), &Access { hosts, scheme, proxies }, limits)
}

/// Creates the API client. If the provider is simulated, also starts and returns the simulator, which stops when the
/// caller drops it.
async fn connect_to(
    provider: &Provider,
    timeout: Duration,
    simulated_provider: SimulatedProvider,
) -> Result<(Client, Option<Simulator>)> {
    match provider {
        Provider::Remote { base_url, key, proxies } => {
            Ok((Client::new(base_url, key.clone(), proxies, timeout)?, None))
        }
        Provider::Simulated => {
            let simulator = Simulator::start(simulated_provider).await?;
            let client =
                Client::new(simulator.base_url(), ApiKey::new(simulator::API_KEY)?, &Proxies::none(), timeout)?;
            Ok((client, Some(simulator)))
        }
    }
}
