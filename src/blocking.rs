//! Runs blocking work outside the async worker threads.

use crate::error::{Error, Result};

/// Runs the work on Tokio's blocking thread pool and waits for the result.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Error::Internal(format!("a worker thread panicked: {panic}"))))
}
