//! Tests of file systems that do not support some operations, and of foreign files in an archive's folders. A preloaded
//! library simulates an unsupported operation: it makes the corresponding system calls of the built program fail.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use common::{CommandOutput, TestEnv, files, ids, walk};

/// The source of a library that makes system calls fail. The environment variable `LACKS` selects the calls.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
static int lacks(const char *what) { const char *all = getenv("LACKS"); return all && strstr(all, what); }
static int refuse(int code) { errno = code; return -1; }
int fsync(int fd) {
    struct stat is;
    if (fstat(fd, &is) == 0 && S_ISDIR(is.st_mode) && lacks("foldersync=EINVAL")) return refuse(EINVAL);
    if (fstat(fd, &is) == 0 && S_ISDIR(is.st_mode) && lacks("foldersync=ENOTSUP")) return refuse(ENOTSUP);
    if (fstat(fd, &is) == 0 && S_ISDIR(is.st_mode) && lacks("foldersync=EIO")) return refuse(EIO);
    if (fstat(fd, &is) == 0 && S_ISREG(is.st_mode) && lacks("filesync")) return refuse(ENOSYS);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
int fdatasync(int fd) {
    if (lacks("filesync")) return refuse(ENOSYS);
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
int flock(int fd, int how) {
    if (lacks("locks=ENOLCK")) return refuse(ENOLCK);
    if (lacks("locks=ENOTSUP")) return refuse(ENOTSUP);
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(fd, how);
}
int fchmod(int fd, mode_t mode) {
    if (lacks("permissions")) return refuse(EPERM);
    return ((int (*)(int, mode_t))dlsym(RTLD_NEXT, "fchmod"))(fd, mode);
}
int chmod(const char *path, mode_t mode) {
    if (lacks("permissions")) return refuse(EPERM);
    return ((int (*)(const char *, mode_t))dlsym(RTLD_NEXT, "chmod"))(path, mode);
}
int linkat(int a, const char *b, int c, const char *d, int e) {
    if (lacks("links")) return refuse(EPERM);
    return ((int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat"))(a, b, c, d, e);
}
int rename(const char *from, const char *to) {
    if (lacks("disks") && strstr(from, ".sunor/partial") && strstr(to, "media")) return refuse(EXDEV);
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}
"#;

/// Compiles the preloaded library and returns its path. `cc` is available, because Rust uses it as the linker.
fn build_shim(env: &TestEnv) -> PathBuf {
    let (source, library) = (env.write_file("shim.c", SHIM.as_bytes()), env.path("shim.so"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").status();
    assert!(built.unwrap().success());
    library
}

fn run_without(env: &TestEnv, missing_operation: &str, mut command: Command) -> CommandOutput {
    CommandOutput::wait_for(command.env("LD_PRELOAD", build_shim(env)).env("LACKS", missing_operation).spawn().unwrap())
}

fn run(env: &TestEnv, missing_operation: &str, arguments: &[&str]) -> CommandOutput {
    let mut command = env.program();
    command.args(arguments);
    run_without(env, missing_operation, command)
}

#[test]
fn an_unsupported_file_system_operation_is_skipped_with_one_warning() {
    for (missing_operation, text) in [
        ("foldersync=EINVAL", "does not support syncing folders"),
        ("foldersync=ENOTSUP", "does not support syncing folders"),
        ("filesync", "does not support syncing files"),
        ("locks=ENOLCK", "does not support locks"),
        ("locks=ENOTSUP", "does not support locks"),
        ("permissions,links", ""),
    ] {
        let env = TestEnv::new();
        env.write_list(ids("t", 12));
        for night in [6, 12] {
            env.write_list(ids("t", night));
            let run = run_without(&env, missing_operation, env.export_command(&["--assets", "audio"])).expect_status(0);
            assert_eq!(run.stderr.matches("warning: ").count(), usize::from(!text.is_empty()), "{}", run.stderr);
            assert!(run.stderr.contains(text), "{}", run.stderr);
        }
        for verb in ["compact", "rebuild"] {
            run(&env, missing_operation, &[verb, "library"]).expect_status(0);
        }
        fs::remove_file(walk(&env.archive().join("media")).pop().unwrap()).unwrap();
        run(&env, missing_operation, &["repair", "library", "--rate", "unlimited", "--assets", "audio"])
            .expect_status(0);
        assert_eq!(env.archived_ids().len(), 12, "{missing_operation}");
        assert_eq!(env.stats().requests, 12, "{missing_operation}");
        assert!(!env.archive().join(".sunor/lock#exclusive").exists());
        env.run(&["verify", "library"]).expect_status(0).expect_output("No damage");
    }
}

#[test]
fn an_io_error_is_never_skipped() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    run_without(&env, "foldersync=EIO", env.export_command(&[])).expect_status(1);
}

#[test]
fn media_are_moved_to_a_file_system_without_permission_support_and_no_staging_files_remain() {
    let env = TestEnv::new();
    env.write_list(ids("t", 6));
    run_without(&env, "permissions,disks", env.export_command(&["--assets", "audio,image"])).expect_status(0);
    let media = walk(&env.archive().join("media"));
    assert!(!media.is_empty() && media.iter().all(|path| !path.to_string_lossy().contains('#')));
    env.run(&["verify", "library"]).expect_status(0).expect_output("No damage");
}

#[test]
fn without_file_locks_a_second_run_is_refused_and_a_stale_lock_is_ignored() {
    let env = TestEnv::new();
    env.write_list(ids("t", 3));
    run_without(&env, "locks=ENOLCK", env.export_command(&[])).expect_status(0);
    let lock = env.archive().join(".sunor/lock#exclusive");
    let write_lock_file = |pid: u32| {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        fs::write(&lock, format!(r#"{{"pid":{pid},"host":"{}","since":null}}"#, host.trim())).unwrap();
    };
    write_lock_file(std::process::id());
    run_without(&env, "locks=ENOLCK", env.export_command(&[]))
        .expect_status(5)
        .expect_output(&std::process::id().to_string());
    write_lock_file(u32::MAX);
    run_without(&env, "locks=ENOLCK", env.export_command(&[])).expect_status(0);
}

/// The archive's folders contain files that sync programs and file managers create.
#[test]
fn files_with_foreign_names_stop_no_command_and_are_reported() {
    for format in ["parquet", "csv"] {
        let env = TestEnv::new();
        env.write_list(ids("t", 12));
        env.export(&["--format", format, "--assets", "audio"]).expect_status(0);
        let archive = env.archive();
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let part = name(&files(&archive.join("tasks"), format).remove(0));
        let record = name(&files(&archive.join("runs"), ".json").remove(0));
        let song = name(&walk(&archive.join("media")).remove(0));
        fs::create_dir_all(archive.join(".sunor/journal")).unwrap();
        let harmless_files = [
            "tasks/.DS_Store".into(),
            format!("tasks/{part}.sb-123"),
            format!("clips/{}", part.replace(format, "bak")),
            format!("runs/._{record}"),
            format!("runs/{}", record.replace(".json", " (1).json")),
            format!("runs/._{}", record.replace(".json", ".sha256")),
            format!("runs/copy of {}", record.replace(".json", "-unfinished.csv")),
            format!("media/._{song}"),
            format!(".sunor/journal/._{}", record.replace(".json", "-0001.journal")),
            ".sunor/.DS_Store".into(),
        ];
        for path in &harmless_files {
            fs::write(archive.join(path), [0, 5, 22, 7, 0]).unwrap();
        }
        let check = env.run(&["verify", "library", "--json"]).expect_status(0).stdout;
        assert!(harmless_files.iter().all(|path| check.contains(path.as_str())), "{check}");

        let strays = [
            format!("tasks/._{part}"),
            format!("clips/copy (conflict).{format}"),
            format!("assets/{} 2.{format}", part.replace(&format!(".{format}"), "")),
        ];
        for path in &strays {
            fs::write(archive.join(path), [0, 5, 22, 7, 0]).unwrap();
        }
        env.write_list(ids("t", 14));
        env.export(&["--assets", "audio"]).expect_status(0).expect_output("12 already archived");
        env.run(&["summary", "library"]).expect_status(0).expect_output("14 tasks");
        for verb in ["compact", "rebuild"] {
            env.run(&[verb, "library"]).expect_status(0);
        }
        let found = env.run(&["verify", "library"]).expect_status(3).stdout;
        assert!(strays.iter().all(|path| found.contains(path.as_str())) && found.contains("run `repair`"), "{found}");
        env.run(&["repair", "library", "--rate", "unlimited"]).expect_status(0).expect_output("3 stray files");
        env.run(&["verify", "library"]).expect_status(0);
        assert_eq!(files(&archive.join(".sunor/damaged"), "").len(), 3, "all stray files must be quarantined");
    }
}

#[test]
fn every_command_that_reads_a_damaged_part_reports_it_with_advice() {
    for format in ["parquet", "csv"] {
        let env = TestEnv::new();
        env.write_list(ids("t", 12));
        env.export(&["--format", format]).expect_status(0);
        let part = files(&env.archive().join("tasks"), format).remove(0);
        let bytes = fs::read(&part).unwrap();
        let damaged = if format == "csv" {
            [&bytes[..bytes.len() / 2], b"\"\xff"].concat()
        } else {
            bytes[..bytes.len() / 2].to_vec()
        };
        fs::write(&part, damaged).unwrap();
        let name = part.file_name().unwrap().to_str().unwrap();
        for arguments in [vec!["summary", "library"], vec!["rebuild", "library"]] {
            env.run(&arguments).expect_status(1).expect_output(name).expect_output("repair");
        }
        env.export(&[]).expect_status(1).expect_output(name).expect_output("repair");
    }
}

/// One part is replaced by a link to an unmounted disk, and another by a named pipe.
#[test]
fn a_part_that_is_not_a_regular_file_is_reported_as_damage_and_repaired() {
    for table in ["tasks", "assets", "clips"] {
        let env = TestEnv::new();
        env.write_list(ids("t", 12));
        env.export(&["--format", "csv", "--assets", "audio"]).expect_status(0);
        let part = files(&env.archive().join(table), "csv").remove(0);
        let name = part.file_name().unwrap().to_str().unwrap();
        let pipe = part.with_file_name("20200101T000000000Z-aaaaaa-0001.csv");
        fs::rename(&part, env.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink("/nowhere/part.csv", &part).unwrap();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for options in [vec![], vec!["--quick"]] {
            let found = env.run(&[vec!["verify", "library"], options].concat()).expect_status(3).stdout;
            assert!(found.contains(name) && found.contains("20200101T000000000Z-aaaaaa"), "{found}");
        }
        if table == "tasks" {
            env.export(&["--assets", "audio"]).expect_status(1).expect_output("repair");
            env.run(&["summary", "library"]).expect_status(1).expect_output("repair");
        }
        env.run(&["repair", "library", "--rate", "unlimited", "--assets", "audio"]);
        env.export(&["--assets", "audio"]).expect_status(0);
        env.run(&["verify", "library"]).expect_status(0);
        assert_eq!(env.rows(table).len(), csv_rows(&env.path("elsewhere")), "{table}");
    }
}

/// A part is replaced by a symbolic link to itself, which some sync programs create.
#[test]
fn a_part_that_is_a_link_to_itself_is_damage_and_repair_restores_its_rows() {
    let env = TestEnv::new();
    env.write_list(ids("t", 12));
    env.export(&["--format", "csv"]).expect_status(0);
    let part = files(&env.archive().join("clips"), "csv").remove(0);
    let rows = csv_rows(&part);
    fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink(part.file_name().unwrap(), &part).unwrap();
    for options in [vec![], vec!["--quick"]] {
        env.run(&[vec!["verify", "library"], options].concat()).expect_status(3).expect_output("run `repair`");
    }
    env.run(&["repair", "library", "--rate", "unlimited"]).expect_status(0);
    env.run(&["verify", "library"]).expect_status(0);
    assert_eq!(env.rows("clips").len(), rows);
}

/// A folder of the archive is a link to a disk that is not mounted, or a file replaces the quarantine folder.
#[test]
fn an_unmounted_disk_and_an_unusable_quarantine_stop_every_command_and_change_nothing() {
    for folder in ["tasks", "media", "media/audio", "runs", ".sunor"] {
        let env = TestEnv::new();
        env.write_list(ids("t", 6));
        env.export(&["--assets", "audio"]).expect_status(0);
        let requests = env.stats().requests;
        let (folder, elsewhere) = (env.archive().join(folder), env.path("elsewhere"));
        fs::rename(&folder, &elsewhere).unwrap();
        std::os::unix::fs::symlink("/nowhere/library", &folder).unwrap();
        for verb in ["summary", "verify", "repair", "compact", "rebuild"] {
            env.run(&[verb, "library"]).expect_status(1).expect_output("broken symbolic link");
        }
        env.export(&["--assets", "audio"]).expect_status(1).expect_output("broken symbolic link");
        assert_eq!(env.stats().requests, requests);
        fs::remove_file(&folder).unwrap();
        fs::rename(&elsewhere, &folder).unwrap();
        env.run(&["verify", "library"]).expect_status(0);
    }
    let env = TestEnv::new();
    env.write_list(ids("t", 3));
    env.export(&["--assets", "audio"]).expect_status(0);
    fs::write(env.archive().join(".sunor/damaged"), "").unwrap();
    let song = walk(&env.archive().join("media")).pop().unwrap();
    let mut bytes = fs::read(&song).unwrap();
    bytes[1000] ^= 1;
    fs::write(&song, bytes).unwrap();
    env.run(&["repair", "library", "--rate", "unlimited"]).expect_status(1).expect_output(".sunor/damaged");
    env.run(&["verify", "library"]).expect_status(3);
}

/// The lock is replaced by a named pipe, and `views.sql` by a folder.
#[test]
fn a_state_file_that_is_not_a_regular_file_is_an_error_with_advice() {
    let env = TestEnv::new();
    env.write_list(ids("t", 3));
    env.export(&[]).expect_status(0);
    let lock = env.archive().join(".sunor/lock");
    fs::remove_file(&lock).unwrap();
    assert!(Command::new("mkfifo").arg(&lock).status().unwrap().success());
    env.run(&["verify", "library"]).expect_status(0);
    env.run(&["summary", "library"]).expect_status(0);
    env.run(&["repair", "library", "--dry-run"]).expect_status(0);
    env.export(&[]).expect_status(1).expect_output("lock").expect_output("not a regular file; remove it");
    fs::remove_file(&lock).unwrap();

    let views = env.archive().join("views.sql");
    fs::remove_file(&views).unwrap();
    fs::create_dir(&views).unwrap();
    env.run(&["verify", "library"])
        .expect_status(3)
        .expect_output("views.sql")
        .expect_output("move it out of the archive");
    env.export(&[]).expect_status(1).expect_output("views.sql").expect_output("move it away");
    fs::remove_dir(&views).unwrap();
    env.export(&[]).expect_status(0);
    env.run(&["verify", "library"]).expect_status(0);
}

fn csv_rows(path: &Path) -> usize {
    csv::Reader::from_path(path).unwrap().records().count()
}

#[test]
fn a_stray_file_whose_name_is_not_utf_8_is_quarantined() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let env = TestEnv::new();
    env.write_list(ids("t", 3));
    env.export(&["--format", "csv"]).expect_status(0);
    let stray = env.archive().join("tasks").join(OsStr::from_bytes(b"\xff.csv"));
    fs::write(&stray, "x").unwrap();
    env.run(&["verify", "library"]).expect_status(3);
    env.run(&["repair", "library"]).expect_status(0).expect_output("1 stray file");
    assert!(!stray.exists());
    env.run(&["verify", "library"]).expect_status(0);
}

fn attributes(path: &Path) -> (u32, u32, u32) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.uid(), metadata.gid(), metadata.mode())
}

#[test]
fn every_command_preserves_owner_group_mode_and_attributes_of_table_folders() {
    let env = TestEnv::new();
    for night in [6, 12] {
        env.write_list(ids("t", night));
        env.export(&["--assets", "audio"]).expect_status(0);
    }
    let tables = ["tasks", "clips", "lyrics", "assets"].map(|table| env.archive().join(table));
    let is_root = fs::metadata(env.archive()).unwrap().uid() == 0;
    let mut has_attributes = true;
    for folder in &tables {
        if is_root {
            std::os::unix::fs::chown(folder, Some(12345), Some(54321)).unwrap();
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o2750)).unwrap();
        let set = rustix::fs::setxattr(folder, "user.note", b"ours", rustix::fs::XattrFlags::empty());
        has_attributes &= set.is_ok();
    }
    let before = tables.each_ref().map(|folder| attributes(folder));
    assert!(!is_root || before[0].1 == 54321);
    let check = |verb: &str| {
        assert_eq!(tables.each_ref().map(|folder| attributes(folder)), before, "{verb}");
        for folder in tables.iter().filter(|_| has_attributes) {
            let mut value = [0; 16];
            assert_eq!(rustix::fs::getxattr(folder, "user.note", &mut value), Ok(4), "{verb}");
        }
    };
    env.run(&["compact", "library"]).expect_status(0);
    check("compact");
    env.run(&["rebuild", "library"]).expect_status(0);
    check("rebuild");
    fs::remove_file(files(&env.archive().join("clips"), ".parquet").remove(0)).unwrap();
    env.run(&["repair", "library", "--rate", "unlimited", "--assets", "audio"]).expect_status(0);
    check("repair");
    env.run(&["verify", "library"]).expect_status(0).expect_output("No damage");
}

/// A write beyond the file-size limit raises SIGXFSZ, which silently ends a process that does not handle it.
#[test]
fn the_file_size_limit_is_an_error_with_advice_and_the_run_can_be_resumed() {
    let env = TestEnv::new();
    env.write_list(ids("t", 60));
    let export = env.export_command(&["--format", "csv"]);
    let mut command = Command::new("bash");
    command.arg("-c").arg("ulimit -f 40; exec \"$@\"").arg("bash").arg(export.get_program()).args(export.get_args());
    command.current_dir(env.path("")).envs(export.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    CommandOutput::wait_for(command.spawn().unwrap())
        .expect_status(1)
        .expect_output("ulimit -f")
        .expect_output("the run will resume");
    env.export(&[]).expect_status(0);
    assert_eq!(env.archived_ids().len(), 60);
    env.run(&["verify", "library"]).expect_status(0);
}

#[test]
fn an_existing_metrics_file_keeps_its_owner_group_and_mode() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    let metrics = env.write_file("run.prom", b"old");
    // Only root may change the owner.
    let _ = std::os::unix::fs::chown(&metrics, Some(12345), Some(54321));
    fs::set_permissions(&metrics, fs::Permissions::from_mode(0o640)).unwrap();
    let before = attributes(&metrics);
    env.export(&["--metrics-file", "run.prom"]).expect_status(0);
    assert_eq!(attributes(&metrics), before);
    assert!(fs::read_to_string(metrics).unwrap().contains("sunor_archive_exit_code 0"));
}

#[test]
fn a_failed_write_to_stdout_is_reported_without_advice_to_rerun() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    env.export(&[]).expect_status(0);
    let mut command = env.program();
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let run =
        CommandOutput::wait_for(command.args(["summary", "library"]).stdout(full).spawn().unwrap()).expect_status(1);
    assert!(run.stderr.contains("standard output") && !run.stderr.contains("resume"), "{}", run.stderr);
}
