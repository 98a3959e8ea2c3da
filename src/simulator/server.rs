//! The simulator's HTTP servers, one for the API and one for the CDN.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use url::Url;

use super::{SimulatedProvider, api, cdn, response::Body, state::State, stats::Stats};
use crate::error::{Error, Result};

/// The address of the CDN: a loopback address that differs from the address of the API.
const CDN_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A running simulator. Its servers stop when this value is dropped.
#[derive(Debug)]
pub struct Simulator {
    base_url: Url,
    cdn_url: Url,
    state: Arc<State>,
    server_task: JoinHandle<()>,
}

impl Simulator {
    /// Starts a simulator on a random loopback port.
    ///
    /// # Errors
    /// Returns [`Error::Storage`] if no port is available.
    pub async fn start(provider: SimulatedProvider) -> Result<Self> {
        Self::start_on(provider, 0).await
    }

    /// Starts a simulator on the given loopback port.
    ///
    /// # Errors
    /// Returns [`Error::Storage`] if the port is unavailable.
    ///
    /// # Panics
    /// Never panics, because an IP address is always a valid URL host.
    pub async fn start_on(provider: SimulatedProvider, port: u16) -> Result<Self> {
        let api = listen(Ipv4Addr::LOCALHOST, port).await?;
        // Fall back to another port or address: the port may be in use, and some systems do not assign all of
        // 127.0.0.0/8 to the loopback interface.
        let cdn = match listen(CDN_ADDRESS, provider.cdn_port).await {
            Ok(listener) => listener,
            Err(_) => match listen(CDN_ADDRESS, 0).await {
                Ok(listener) => listener,
                Err(_) => listen(Ipv4Addr::LOCALHOST, 0).await?,
            },
        };
        let (base_url, cdn_url) = (root(&api)?, root(&cdn)?);
        let root = cdn_url.as_str().trim_end_matches('/').to_owned();
        let state = Arc::new(State::new(provider, root));
        let (api_state, cdn_state) = (state.clone(), state.clone());
        let api = serve(api, move |request| api::handle(api_state.clone(), request));
        let cdn = serve(cdn, move |request| cdn::handle(cdn_state.clone(), request));
        let server_task = tokio::spawn(async { tokio::join!(api, cdn).0 });
        Ok(Self { base_url, cdn_url, state, server_task })
    }

    /// Returns the root URL of the API, for `--base-url`.
    #[must_use]
    pub fn base_url(&self) -> &Url {
        &self.base_url
    }

    /// Returns the root URL of the CDN. Its IP address differs from that of the API if the system supports a second
    /// loopback address.
    #[must_use]
    pub fn cdn_url(&self) -> &Url {
        &self.cdn_url
    }

    /// Returns the statistics about all requests so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.counts().stats.clone()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.server_task.abort();
    }
}

async fn listen(host: Ipv4Addr, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from((host, port));
    TcpListener::bind(address).await.map_err(|error| Error::io("listen on", Path::new(&address.to_string()), &error))
}

fn root(listener: &TcpListener) -> Result<Url> {
    let address = listener.local_addr().map_err(|error| Error::io("listen on", Path::new("a port"), &error))?;
    Ok(Url::parse(&format!("http://{address}")).expect("a socket address is a valid host and port"))
}

async fn serve<A, F>(listener: TcpListener, response: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<Response<Body>>> + Send + 'static,
{
    // This task owns the connections, so that they close when the server stops.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let service = service_fn(response.clone());
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
