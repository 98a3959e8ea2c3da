//! Work that blocks, on a thread that may.

use crate::error::{Error, Result};

/// Does the work on a thread for such work, and waits for it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Error::Internal(format!("a thread of the program failed: {panic}"))))
}
