//! The simulator's HTTP server: who listens, and what all answers share.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use url::Url;

use super::{
    World, api,
    stats::{Counts, Stats},
};
use crate::error::{Error, Result};

/// A running simulator. It ends when this is dropped.
#[derive(Debug)]
pub struct Simulator {
    base_url: Url,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

/// What all answers share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) world: World,
    pub(super) start: Timestamp,
    counts: Mutex<Counts>,
}

impl Simulator {
    /// Serves a world on loopback, on a port of the system's choice.
    ///
    /// # Errors
    /// [`Error::Storage`] if no port can be had.
    pub async fn start(world: World) -> Result<Self> {
        Self::start_on(world, 0).await
    }

    /// Serves a world on loopback, on the given port.
    ///
    /// # Errors
    /// [`Error::Storage`] if the port cannot be had.
    ///
    /// # Panics
    /// Never: an address is always a URL's host.
    pub async fn start_on(world: World, port: u16) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |error: io::Error| Error::io("listen on", Path::new(&address.to_string()), &error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let base_url = Url::parse(&format!("http://{address}")).expect("an address is a URL's host");
        let state = Arc::new(State { world, start: Timestamp::now(), counts: Mutex::default() });
        let serving = tokio::spawn(serve(listener, state.clone()));
        Ok(Self { base_url, state, serving })
    }

    /// Its root, as `--base-url` takes it.
    #[must_use]
    pub fn base_url(&self) -> &Url {
        &self.base_url
    }

    /// What it was asked so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.counts().stats.clone()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Owned here, so that the connections end with the server.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let state = state.clone();
                let service = service_fn(move |request| api::answer(state.clone(), request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

impl State {
    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
