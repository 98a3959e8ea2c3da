//! A backend for an object store. Object stores have neither folders nor links, so this backend does not support the
//! exchange of folders. An object is durable as soon as it is visible.

use std::{
    io::{self, Write},
    path::Path,
    sync::{Arc, mpsc},
};

use futures_util::FutureExt;
use jiff::Timestamp;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, path::Path as ObjectPath};
use tokio::runtime::{self, Runtime};

use super::{
    Entry,
    backend::{Backend, StagingFile},
};
use crate::ranged::{RangedFile, ReadAt};

/// A backend that stores files as objects in an object store.
#[derive(Clone, Debug)]
pub(crate) struct ObjectStoreBackend {
    objects: Arc<dyn ObjectStore>,
    runtime: Arc<RequestRuntime>,
}

/// The runtime for requests to the object store. [`Backend`] methods block and may be called from a thread of the main
/// runtime, so the requests run on a separate runtime.
#[derive(Debug)]
struct RequestRuntime(Option<Runtime>);

impl Drop for RequestRuntime {
    fn drop(&mut self) {
        // Dropping a runtime blocks, which is not allowed on a thread of another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl ObjectStoreBackend {
    pub(crate) fn new(objects: Arc<dyn ObjectStore>) -> Self {
        let runtime = runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        Self { objects, runtime: Arc::new(RequestRuntime(Some(runtime))) }
    }

    /// Runs a request and blocks until it has finished.
    fn block_on<T: Send + 'static>(
        &self,
        request: impl FnOnce(Arc<dyn ObjectStore>) -> futures_util::future::BoxFuture<'static, object_store::Result<T>>,
    ) -> io::Result<T> {
        let (send, receive) = mpsc::sync_channel(1);
        let runtime = self.runtime.0.as_ref().expect("the runtime exists until the value is dropped");
        runtime.spawn(request(self.objects.clone()).map(move |result| send.send(result)));
        receive.recv().map_err(io::Error::other)?.map_err(io::Error::from)
    }

    fn head(&self, path: &str) -> io::Result<ObjectMeta> {
        let location = location(path)?;
        self.block_on(|objects| async move { objects.head(&location).await }.boxed())
    }

    fn put(&self, path: &str, bytes: Vec<u8>) -> io::Result<()> {
        let location = location(path)?;
        self.block_on(|objects| async move { objects.put(&location, bytes.into()).await.map(drop) }.boxed())
    }
}

impl Backend for ObjectStoreBackend {
    fn display(&self, path: &str) -> String {
        format!("{}/{path}", self.objects)
    }

    fn open(&self, path: &str) -> io::Result<RangedFile> {
        Ok(RangedFile::new(Object { meta: self.head(path)?, objects: self.clone() }))
    }

    fn size(&self, path: &str) -> io::Result<Option<u64>> {
        match self.head(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            meta => meta.map(|meta| Some(meta.size)),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Entry>> {
        let location = location(folder)?;
        let listed =
            self.block_on(|objects| async move { objects.list_with_delimiter(Some(&location)).await }.boxed())?;
        let entry = |is_folder| move |path: ObjectPath| Entry { path: path.to_string(), is_folder };
        let files = listed.objects.into_iter().map(|meta| meta.location).map(entry(false));
        Ok(files.chain(listed.common_prefixes.into_iter().map(entry(true))).collect())
    }

    fn create(&self, path: &str) -> io::Result<Box<dyn StagingFile>> {
        Ok(Box::new(NewObject { path: path.to_owned(), bytes: Vec::new(), objects: self.clone() }))
    }

    fn move_in(&self, from: &Path, path: &str) -> io::Result<()> {
        self.put(path, std::fs::read(from)?)?;
        std::fs::remove_file(from)
    }

    fn copy_out(&self, path: &str, to: &Path) -> io::Result<()> {
        io::copy(&mut self.open(path)?, &mut std::fs::File::create(to)?).map(drop)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let location = location(path)?;
        match self.block_on(|objects| async move { objects.delete(&location).await }.boxed()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }
}

fn location(path: &str) -> io::Result<ObjectPath> {
    ObjectPath::parse(path).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// An open object that is read with range requests.
#[derive(Debug)]
struct Object {
    meta: ObjectMeta,
    objects: ObjectStoreBackend,
}

impl ReadAt for Object {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let range = offset..self.meta.size.min(offset.saturating_add(buffer.len() as u64));
        if range.is_empty() {
            return Ok(0);
        }
        let location = self.meta.location.clone();
        let bytes =
            self.objects.block_on(|objects| async move { objects.get_range(&location, range).await }.boxed())?;
        let read = bytes.len().min(buffer.len());
        buffer[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.meta.size)
    }

    fn modified(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.meta.last_modified.timestamp_millis()).ok()
    }
}

/// An object that is being written. The content is buffered in memory until the object is published.
struct NewObject {
    path: String,
    bytes: Vec<u8>,
    objects: ObjectStoreBackend,
}

impl Write for NewObject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StagingFile for NewObject {
    fn publish(self: Box<Self>) -> io::Result<()> {
        self.objects.put(&self.path, self.bytes)
    }
}
