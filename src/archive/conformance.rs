//! Conformance tests for backends. Each test runs against a local folder, an object store, and a fault-injecting
//! backend.

use std::{
    fs,
    io::{self, Read, Seek, SeekFrom, Write},
    sync::Arc,
};

use object_store::memory::InMemory;
use tempfile::TempDir;

use super::{
    Entry,
    backend::Backend,
    failing::{FailingBackend, FaultBudget},
    local::LocalBackend,
    object_store::ObjectStoreBackend,
};

/// Creates an empty backend of each kind, with a name and a local scratch folder.
fn backends() -> Vec<(&'static str, Arc<dyn Backend>, TempDir)> {
    let local = || {
        let folder = tempfile::tempdir().unwrap();
        (Arc::new(LocalBackend::new(&folder.path().join("archive"))) as Arc<dyn Backend>, folder)
    };
    let ((folder, scratch), (wrapped, wrapped_scratch)) = (local(), local());
    let objects = Arc::new(ObjectStoreBackend::new(Arc::new(InMemory::new())));
    let failing =
        Arc::new(FailingBackend { backend: wrapped, budget: FaultBudget::new(usize::MAX), can_exchange: true });
    vec![
        ("folder", folder, scratch),
        ("objects", objects, tempfile::tempdir().unwrap()),
        ("fault-injecting", failing, wrapped_scratch),
    ]
}

fn put(backend: &dyn Backend, path: &str, text: &str) {
    let mut file = backend.create(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.publish().unwrap();
}

fn read(backend: &dyn Backend, path: &str) -> String {
    io::read_to_string(backend.open(path).unwrap()).unwrap()
}

fn names(backend: &dyn Backend, folder: &str) -> Vec<String> {
    let mut names: Vec<String> = backend.list(folder).unwrap().into_iter().map(|entry| entry.path).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_visible_only_after_it_is_published() {
    for (name, backend, _scratch) in backends() {
        let mut file = backend.create("tasks/a").unwrap();
        file.write_all(b"one").unwrap();
        assert_eq!(backend.size("tasks/a").unwrap(), None, "{name}");
        file.publish().unwrap();
        backend.sync("tasks").unwrap();
        assert_eq!((backend.size("tasks/a").unwrap(), read(&*backend, "tasks/a").as_str()), (Some(3), "one"), "{name}");
    }
}

#[test]
fn a_dropped_staging_file_is_removed_and_the_old_file_is_kept() {
    for (name, backend, _scratch) in backends() {
        put(&*backend, "tasks/a", "one");
        let mut file = backend.create("tasks/a").unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert_eq!(
            (names(&*backend, "tasks"), read(&*backend, "tasks/a").as_str()),
            (vec!["tasks/a".into()], "one"),
            "{name}"
        );
    }
}

#[test]
fn a_reader_reads_any_range_and_a_file_can_be_replaced_while_open() {
    for (name, backend, _scratch) in backends() {
        put(&*backend, "a", "0123456789");
        let mut file = backend.open("a").unwrap();
        let mut range = [0; 3];
        file.seek(SeekFrom::Start(4)).unwrap();
        file.read_exact(&mut range).unwrap();
        assert_eq!(&range, b"456", "{name}");
        file.seek(SeekFrom::End(-1)).unwrap();
        assert_eq!((file.read(&mut range).unwrap(), file.read(&mut range).unwrap()), (1, 0), "{name}");
        put(&*backend, "a", "replaced");
        assert_eq!(read(&*backend, "a"), "replaced", "{name}");
    }
}

#[test]
fn list_returns_direct_entries_and_a_missing_folder_is_empty() {
    for (name, backend, _scratch) in backends() {
        assert_eq!(names(&*backend, "tasks"), [""; 0], "{name}");
        for path in ["tasks/b", "tasks/a b~é%2F", "tasks/deep/er/c", "top"] {
            put(&*backend, path, path);
            assert_eq!(read(&*backend, path), path, "{name}");
        }
        let mut listed = backend.list("tasks").unwrap();
        listed.sort_by(|one, other| one.path.cmp(&other.path));
        let entry = |path: &str, is_folder| Entry { path: path.into(), is_folder };
        let expected = [entry("tasks/a b~é%2F", false), entry("tasks/b", false), entry("tasks/deep", true)];
        assert_eq!(listed, expected, "{name}");
        assert_eq!(names(&*backend, ""), ["tasks", "top"], "{name}");
    }
}

#[test]
fn a_local_file_is_moved_in_copied_out_and_moved_out() {
    for (name, backend, scratch) in backends() {
        let local = |name: &str| scratch.path().join(name);
        fs::write(local("new"), "song").unwrap();
        backend.move_in(&local("new"), "media/audio/a.mp3").unwrap();
        assert!(!local("new").exists(), "{name}");
        backend.copy_out("media/audio/a.mp3", &local("copy")).unwrap();
        assert_eq!(
            (fs::read_to_string(local("copy")).unwrap().as_str(), backend.size("media/audio/a.mp3").unwrap()),
            ("song", Some(4)),
            "{name}"
        );
        backend.move_out("media/audio/a.mp3", &local("taken")).unwrap();
        assert_eq!(
            (fs::read_to_string(local("taken")).unwrap().as_str(), backend.size("media/audio/a.mp3").unwrap()),
            ("song", None),
            "{name}"
        );
    }
}

#[test]
fn removing_a_missing_file_is_not_an_error() {
    for (name, backend, _scratch) in backends() {
        put(&*backend, "tasks/a", "one");
        backend.remove("tasks/a").unwrap();
        backend.remove("tasks/a").unwrap();
        assert_eq!(backend.open("tasks/a").unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
    }
}

#[test]
fn an_exchange_preserves_kept_files_or_changes_nothing() {
    for (name, backend, scratch) in backends() {
        put(&*backend, "tasks/old", "old");
        put(&*backend, "tasks/stays", "stays");
        let staging = scratch.path().join("staging");
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("new"), "new").unwrap();
        let is_exchanged = backend.exchange("tasks", &staging, &|name| name == "stays").unwrap();
        let expected = if is_exchanged { ["tasks/new", "tasks/stays"] } else { ["tasks/old", "tasks/stays"] };
        assert_eq!(names(&*backend, "tasks"), expected, "{name}");
        assert_eq!(is_exchanged, cfg!(target_os = "linux") && name != "objects", "{name}");
    }
}

#[test]
fn a_failed_write_keeps_the_old_file() {
    for changes in 0..2 {
        for (name, backend, _scratch) in backends() {
            put(&*backend, "a", "old");
            let failing =
                FailingBackend { backend: backend.clone(), budget: FaultBudget::new(changes), can_exchange: true };
            let published = failing.create("a").and_then(|mut file| {
                file.write_all(b"new")?;
                file.publish()
            });
            assert!(published.is_err(), "{name}");
            assert_eq!((names(&*backend, ""), read(&*backend, "a").as_str()), (vec!["a".into()], "old"), "{name}");
        }
    }
}
