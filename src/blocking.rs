//! Runs blocking work on a thread for it.

use crate::error::{Error, Result};

/// Runs the work on a thread for blocking work, and waits for the result.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Error::Internal(format!("a worker thread panicked: {panic}"))))
}
