//! Tests of command-line usage. After a usage error, the program exits with status 2 and a message that states the
//! remedy. It sends no requests and writes no files.

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
};

use common::{CommandOutput, TestEnv, ids};
use sunor_archive::simulator::FaultPlan;

/// Asserts that the program rejects the arguments with a message that contains `text`, without sending a request or
/// writing a file.
#[track_caller]
fn assert_rejected(env: &TestEnv, arguments: &[&str], text: &str) {
    env.run(arguments).expect_status(2).expect_output(text);
    assert_eq!(env.stats().requests, 0);
    assert!(!env.archive().exists(), "an archive was created");
}

#[test]
fn an_unusable_list_is_rejected() {
    let env = TestEnv::new();
    for (name, bytes, text) in [
        ("empty.csv", &b""[..], "empty.csv is empty"),
        ("two.csv", b"a,b\n1,2\n", "none of the columns a, b"),
        ("quote.csv", b"task_id\n\"abc\n", "line 2: unclosed quote"),
        ("utf16.csv", b"\xff\xfet\0a\0", "is encoded in UTF-16"),
        ("cut.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "cannot read cut.gz"),
    ] {
        env.write_file(name, bytes);
        assert_rejected(&env, &["export", name, "--out", "library"], text);
    }
    assert_rejected(&env, &["export", "absent.csv", "--out", "library"], "absent.csv");
    env.write_list(["t1"]);
    assert_rejected(&env, &["export", "tasks.csv", "--out", "library", "--column", "id"], "no column `id`");
}

#[test]
fn an_invalid_option_is_rejected() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    for (option, value, text) in [
        ("--rate", "fast", "invalid rate"),
        ("--poll-interval", "500ms", "the minimum is 1s"),
        ("--wait", "long", "invalid duration"),
        ("--concurrency", "0", "--concurrency"),
        ("--delimiter", "ab", "a single ASCII character"),
        ("--format", "xlsx", "parquet"),
        ("--assets", "cover", "unknown kind of asset"),
        ("--max-asset-size", "big", "invalid size"),
        ("--asset-concurrency", "0", "--asset-concurrency"),
        ("--base-url", "sunor.cc", "--base-url"),
        ("--timeout", "0s", "greater than zero"),
        ("--metrics-file", "absent/run.prom", "does not exist"),
        ("--reserve", "120", "leaves no requests"),
    ] {
        assert_rejected(&env, &["export", "tasks.csv", "--out", "library", option, value], text);
    }
    assert_rejected(&env, &["export", "tasks.csv"], "--out");
}

#[test]
fn a_key_comes_from_the_environment_or_a_file_and_never_from_an_argument() {
    let env =
        TestEnv::with_faults(FaultPlan { key: Some("the-key".into()), unfinished: Some(0.0), ..FaultPlan::default() });
    env.write_list(["t1"]);
    let mut command = env.export_command(&[]);
    CommandOutput::wait_for(command.env_remove("SUNOR_API_KEY").spawn().unwrap())
        .expect_status(2)
        .expect_output("no API key");
    CommandOutput::wait_for(env.export_command(&[]).env("SUNOR_API_KEY", "  ").spawn().unwrap())
        .expect_status(2)
        .expect_output("is empty");
    assert_rejected(
        &env,
        &["export", "tasks.csv", "--out", "library", "--api-key-file", "absent"],
        "cannot read the key",
    );
    env.write_file("key", b" the-key\n\n");
    env.export(&["--api-key-file", "key"]).expect_status(0);
}

#[test]
fn an_unusable_archive_path_is_rejected() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    env.write_file("file", b"");
    env.run(&["export", "tasks.csv", "--out", "file"]).expect_status(2).expect_output("is a file");
    env.run(&["export", "tasks.csv", "--out", "file/library"]).expect_status(2).expect_output("is a file");
    env.run(&["export", "tasks.csv", "--out", ""]).expect_status(2).expect_output("the archive path is empty");
    assert!(!env.path(".sunor").exists());
    env.run(&["export", "tasks.csv", "--out", "s3://bucket/x"])
        .expect_status(2)
        .expect_output("does not support `s3://`");
    for path in [" s3://bucket/x", "s3:/bucket/x"] {
        env.run(&["export", "tasks.csv", "--out", path]).expect_status(2).expect_output("does not support");
    }
    for command in ["summary", "verify", "repair", "compact", "rebuild"] {
        env.run(&[command, "gs://bucket/x"]).expect_status(2).expect_output("does not support `gs://`");
    }
    assert!(!env.path(" s3:").exists() && !env.path("s3:").exists() && !env.path("gs:").exists());
    env.export(&["--format", "csv"]).expect_status(0);
    env.export(&["--format", "parquet"]).expect_status(2).expect_output("has csv tables");

    let metadata = env.archive().join("archive.json");
    fs::rename(&metadata, env.path("lost")).unwrap();
    env.run(&["verify", "library"]).expect_status(2).expect_output("has tables but no archive.json");
    env.export(&["--format", "parquet"]).expect_status(2).expect_output("has csv tables");
    env.export(&[]).expect_status(0).expect_output("1 already archived");
    let full = fs::read_to_string(&metadata).unwrap();
    fs::write(&metadata, full.replace("\"csv\"", "\"parquet\"")).unwrap();
    env.export(&[]).expect_status(2).expect_output("but all parts are csv");
    env.run(&["rebuild", "library"]).expect_status(2).expect_output("move it away");
    fs::write(&metadata, "").unwrap();
    for command in ["summary", "repair", "compact"] {
        env.run(&[command, "library"])
            .expect_status(1)
            .expect_output("move it away, and the next export regenerates it");
    }
    let newer = full.replace("\"format_version\": 1", "\"format_version\": 2");
    fs::write(&metadata, newer).unwrap();
    env.write_list(["t2"]);
    env.export(&[]).expect_status(2).expect_output("upgrade sunor-archive");
    env.run(&["summary", "library"]).expect_status(0).expect_output("library: 1 task, ");
    assert_eq!(env.stats().requests, 1);
}

#[test]
fn a_summary_without_an_archive_is_an_error() {
    let env = TestEnv::new();
    assert_rejected(&env, &["summary", "library"], "is not an archive");
    env.write_list(["t1"]);
    env.export(&[]).expect_status(0);
    env.run(&["summary", "library", "--account", "--base-url", "sunor.cc"])
        .expect_status(2)
        .expect_output("--base-url");
    env.run(&["summary", "library", "--run", "../x"]).expect_status(2).expect_output("has no run `../x`");
}

#[test]
fn verify_rejects_a_missing_archive_and_an_invalid_slice() {
    let env = TestEnv::new();
    assert_rejected(&env, &["verify", "library"], "is not an archive");
    for (option, value, text) in [
        ("--slice", "0/7", "invalid slice"),
        ("--slice", "8/7", "invalid slice"),
        ("--slice", "3", "invalid slice"),
        ("--sample", "0%", "invalid share"),
        ("--sample", "some", "invalid share"),
    ] {
        assert_rejected(&env, &["verify", "library", option, value], text);
    }
    assert_rejected(&env, &["verify", "library", "--quick", "--slice", "1/7"], "cannot be used with");
    assert_rejected(&env, &["verify", "library", "--sample", "1%", "--slice", "1/7"], "cannot be used with");
    env.write_file("file", b"");
    env.run(&["verify", "file"]).expect_status(2).expect_output("is not an archive");
}

#[test]
fn strict_rejects_a_list_with_invalid_rows_and_reports_them() {
    let env = TestEnv::new();
    env.write_list(["t1", "a/b", "t2"]);
    assert_rejected(&env, &["export", "tasks.csv", "--out", "library", "--strict"], "skipped line 3");
    env.write_list(["t1"]);
    env.export(&["--strict"]).expect_status(0);
}

#[test]
fn common_list_formats_are_accepted() {
    let env = TestEnv::new();
    let list = env.write_file("semi.csv", b"\xef\xbb\xbfname;Task_ID\r\nx; a1 \r\n\r\ny;a2\r\n");
    let list = list.to_str().unwrap();
    env.run(&["export", list, "--out", "library", "--format", "csv", "--delimiter", ";", "--rate", "unlimited"])
        .expect_status(0);
    env.run_with_stdin(&["export", "-", "--out", "library", "--no-headers", "--rate", "unlimited"], b"a3\na2\n")
        .expect_status(0);
    let packed = zstd::encode_all(&b"x\ta4\n"[..], 1).unwrap();
    let stdin = [
        "export",
        "-",
        "--out",
        "library",
        "--no-headers",
        "--column",
        "2",
        "--delimiter",
        "tab",
        "--rate",
        "unlimited",
    ];
    env.run_with_stdin(&stdin, &packed).expect_status(0);
    assert_eq!(env.archived_ids(), ["a1", "a2", "a3", "a4"]);
    assert_eq!(env.stats().requests, 4);
}

#[test]
fn help_lists_only_existing_options() {
    let env = TestEnv::new();
    let help = env.run(&["--help"]).expect_status(0).stdout;
    let named = |verb: &str| help.lines().any(|line| line.split_whitespace().next() == Some(verb));
    for verb in ["export", "summary", "verify", "repair", "compact", "rebuild", "simulate", "completions"] {
        assert!(named(verb), "{verb}");
    }
    for verb in ["gallery", "music"] {
        assert!(!named(verb), "{verb}");
    }
    env.run(&["export", "--help"])
        .expect_status(0)
        .expect_output("Examples:")
        .expect_output("--poll-interval")
        .expect_output("Exit status");
    env.run(&["verify", "--help"])
        .expect_status(0)
        .expect_output("Examples:")
        .expect_output("--slice")
        .expect_output("Exit status");
    for verb in ["repair", "compact", "rebuild"] {
        env.run(&[verb, "--help"])
            .expect_status(0)
            .expect_output("Examples:")
            .expect_output("--dry-run")
            .expect_output("Exit status");
    }
    env.run(&["export", "--help"]).expect_status(0).expect_output("--metrics-file");
    env.run(&["summary", "--help"])
        .expect_status(0)
        .expect_output("Examples:")
        .expect_output("--account")
        .expect_output("Exit status");
    env.run(&["completions", "bash"]).expect_status(0).expect_output("sunor-archive");
}

/// The archive contains two runs, and some tasks are unfinished in both runs.
#[test]
fn summary_totals_all_runs_and_counts_missing_tasks() {
    let env = TestEnv::with_faults(FaultPlan {
        unfinished_seconds: Some(3000.0),
        unfinished: Some(0.3),
        ..FaultPlan::default()
    });
    env.write_list(ids("t", 40));
    env.export(&["--wait", "0s"]).expect_status(3);
    env.export(&["--wait", "0s"]).expect_status(3);
    let json = env.run(&["summary", "library", "--json"]).expect_status(0).stdout;
    let archive: serde_json::Value = serde_json::from_str(&json).unwrap();
    let last = env.summary();
    assert_eq!((&archive["runs"], &archive["run_id"]), (&2.into(), &last["run_id"]));
    assert_eq!(archive["requests"]["total"], env.stats().requests);
    assert_eq!(archive["input"]["rows"], 80);
    assert_eq!(archive["tasks"]["unfinished"], last["tasks"]["unfinished"]);
    let tasks: u64 = archive["tasks"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(tasks, 40);

    let run = last["run_id"].as_str().unwrap();
    let one = env.run(&["summary", "library", "--run", run, "--json"]).expect_status(0).stdout;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&one).unwrap(), last);
    env.run(&["summary", "library"]).expect_status(0).expect_output("last run");
    let quiet = env.run(&["summary", "library", "-q"]).expect_status(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
}

/// The output of the simulator is closed after its first line, as in `simulate 2>&1 | head -1`.
#[test]
fn the_simulator_keeps_running_after_its_output_is_closed() {
    let env = TestEnv::new();
    let mut command = env.program();
    command.arg("simulate").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut simulator = command.spawn().unwrap();
    drop(simulator.stderr.take());
    let mut line = String::new();
    BufReader::new(simulator.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /simulator/stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    simulator.kill().unwrap();
    simulator.wait().unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
}

/// A file in another format is given as the list, and the error message states the format.
#[test]
fn a_list_that_is_not_csv_is_rejected() {
    let env = TestEnv::new();
    for (bytes, text) in [
        (&b"\xfd7zXZ\0\0\x04"[..], "an xz file"),
        (b"BZh91AY&SY", "a bzip2 file"),
        (b"PK\x03\x04\x14\0\0\0", "a zip archive or a spreadsheet"),
        (b"PAR1\x15\x04PAR1", "a Parquet file"),
        (b"[{\"task_id\":\"t1\"},{\"task_id\":\"t2\"}]", "is a JSON file"),
        (b"{\"task_id\":\"t1\"}\n{\"task_id\":\"t2\"}\n", "is a JSON file"),
        ("\u{200b}[\"t1\",\"t2\"]\n".as_bytes(), "is a JSON file"),
        ("\u{a0}{\"task_id\":\"t1\"}\n\u{a0}{\"task_id\":\"t2\"}\n".as_bytes(), "is a JSON file"),
        (b"\x1e{\"task_id\":\"t1\"}\n\x1e{\"task_id\":\"t2\"}\n", "is a JSON file"),
        (b"\x7fELF\x02\x01\x01\0\0\0\0\0", "is a binary file"),
        (b"\x1f\x9d\x90\xe2\x90\n\xff\xfe", "a compress (.Z) file"),
        (b"\x04\x22\x4d\x18\x64@\xa7\n", "an lz4 file"),
        (b"Obj\x01\x04\x16avro.schema\n", "an Avro file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0\0\0", "is a binary file"),
        (b"t\xe4sk\nt1\n", "not UTF-8"),
    ] {
        env.write_file("list", bytes);
        assert_rejected(&env, &["export", "list", "--out", "library"], text);
    }
}

/// The list contains byte-order marks and invisible characters around IDs, a row without values, and an ID that
/// contains an invisible character.
#[test]
fn invisible_characters_are_trimmed_around_ids_and_rejected_within_ids() {
    let env = TestEnv::new();
    let list = "\u{feff}\u{feff}task_id,note\n\u{feff}t1,a\nt2\u{200b},b\n,\nt\u{200b}3,c\n";
    env.write_file("tasks.csv", list.as_bytes());
    env.export(&["--format", "csv"]).expect_status(3).expect_output("line 5").expect_output("U+200B");
    assert_eq!(env.archived_ids(), ["t1", "t2"]);
    assert_eq!(env.summary()["input"]["rows"], 3);
}

/// Without `--delimiter`, a `sep=` line sets the delimiter. If there is no `sep=` line, the program chooses the
/// delimiter that yields a column with a recognized name.
#[test]
fn a_detected_delimiter_is_reported_unless_it_is_a_comma() {
    for (list, options, expected) in [
        ("task_id,note\nt1,a;b|c\n", &[][..], None),
        ("note;task_id\nx,y;t1\n", &[], Some("`;`")),
        ("note\ttaskId\r\nx;y\tt1\r\n", &[], Some(": tab")),
        ("note|ID\nx,y|t1\n", &[], Some("`|`")),
        ("a,b;song\n1,2;t1\n", &["--column", "song"], Some("`;`")),
        ("a;b\n1;t1\n", &["--column", "2"], Some("`;`")),
        ("x;t1\n", &["--no-headers", "--column", "2"], Some("`;`")),
        ("x;y,t1\n", &["--no-headers", "--column", "2", "--delimiter", ","], None),
        ("sep=;\nnote;task_id\nx;t1\n", &[], Some("`;`")),
        ("\u{feff}\"sep=|\"\r\nnote|task_id\r\nx|t1\r\n", &[], Some("`|`")),
        ("sep=^\nx^t1\n", &["--no-headers", "--column", "2"], Some("`^`")),
        ("sep=,\ntask_id\nt1\n", &[], None),
        ("sep=;\ntask_id,x;y\nt1,z\n", &["--delimiter", ","], None),
        ("\"sep=\t\"\ntask_id\tnote\nt1\tx\n", &[], Some(": tab")),
    ] {
        let env = TestEnv::new();
        env.write_file("tasks.csv", list.as_bytes());
        let ended = env.export(&[&["--format", "csv"], options].concat()).expect_status(0);
        assert_eq!(env.archived_ids(), ["t1"], "{list:?}");
        let line = ended.stderr.lines().find(|line| line.contains("field delimiter"));
        assert_eq!(line.is_some(), expected.is_some(), "{list:?}: {line:?}");
        assert!(line.unwrap_or_default().contains(expected.unwrap_or_default()), "{list:?}: {line:?}");
    }
}

#[test]
fn line_numbers_include_the_separator_line_and_ambiguous_columns_are_rejected() {
    let env = TestEnv::new();
    env.write_file("tasks.csv", b"sep=;\r\nnote;task_id\r\nx;a/b\r\ny;t1\r\n");
    env.export(&["--format", "csv"]).expect_status(3).expect_output("skipped line 3");
    assert_eq!(env.archived_ids(), ["t1"]);

    let env = TestEnv::new();
    for list in [&b"name;song\nx;t1\n"[..], b"sep=|\nname|song\nx|t1\n"] {
        env.write_file("tasks.csv", list);
        assert_rejected(&env, &["export", "tasks.csv", "--out", "library"], "none of the columns name, song");
    }
}

#[test]
fn a_list_with_only_a_header_is_empty() {
    for list in [&b"task_id"[..], b"\xef\xbb\xbftask_id,note\r\n\r\n,\r\n", b"sep=;\nnote;id\n"] {
        let env = TestEnv::new();
        env.write_file("tasks.csv", list);
        let ended = env.export(&["--format", "csv"]).expect_status(0);
        assert!(ended.stderr.contains("the list is empty"), "{}", ended.stderr);
        let quiet = env.export(&["--format", "csv", "-q"]).expect_status(0);
        assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    }
}

/// Like `gzip -d`, the program accepts concatenated members, zero padding and trailing garbage.
#[test]
fn every_list_that_gzip_decompresses_is_read() {
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let members = [gzip("task_id\nt1\n"), vec![0; 512], gzip("t2\n")].concat();
    let env = TestEnv::new();
    env.write_file("tasks.csv", &[&members[..], b"\0\0"].concat());
    let padded = env.export(&["--format", "csv"]).expect_status(0);
    assert!(!padded.stderr.contains("garbage"), "{}", padded.stderr);
    env.write_file("tasks.csv", &[&members[..], b"-- \nsent from a mailer\n"].concat());
    env.export(&["--format", "csv"]).expect_status(0).expect_output("ignored trailing garbage");
    assert_eq!(env.archived_ids(), ["t1", "t2"]);
    env.write_file("tasks.csv", &members[..members.len() - 3]);
    env.export(&["--format", "csv"]).expect_status(2).expect_output("cannot read");
}

/// The list contains a byte-order mark in the middle, as in the output of `cat a b`, and invisible characters around
/// names and IDs, as in text pasted from a chat.
#[test]
fn concatenated_lists_are_read() {
    let env = TestEnv::new();
    let first = "\u{feff}\u{200b}task_id\u{a0}\nt1\n".as_bytes();
    let second = "\u{feff}TASK_ID\n\u{feff}\"t2\"\n\u{2060}t3\u{200b}\n t4\u{feff}\u{200e}\r\n\u{200b}\n".as_bytes();
    env.write_file("tasks.csv", &[first, second].concat());
    env.export(&["--format", "csv"]).expect_status(3).expect_output("skipped line 7: the ID is empty");
    assert_eq!(env.archived_ids(), ["t1", "t2", "t3", "t4"]);
    assert_eq!(env.summary()["input"]["rows"], 5);

    env.write_file("tasks.csv", "note,\u{feff}Song\u{200b} \nx,t5\u{ad}\n".as_bytes());
    env.export(&["--format", "csv", "--column", "song"]).expect_status(0);
    assert_eq!(env.archived_ids(), ["t1", "t2", "t3", "t4", "t5"]);
}

/// Text quoted from a list is escaped and truncated, so no control characters reach the terminal.
#[test]
fn quotes_from_a_list_are_short_and_printable() {
    let env = TestEnv::new();
    let title = format!("a\u{1b}[31m\u{202e}b{},c\nx,y\n", "-".repeat(5000));
    env.write_file("tasks.csv", title.as_bytes());
    let ended = env.run(&["export", "tasks.csv", "--out", "library"]).expect_status(2);
    assert!(ended.stderr.len() < 500 && !ended.stderr.contains(['\u{1b}', '\u{202e}']), "{}", ended.stderr);
}

/// Errors in paths and options are reported before a missing API key.
#[test]
fn an_invalid_path_is_reported_before_a_missing_key() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    env.write_file("file", b"");
    fs::create_dir(env.path("folder")).unwrap();
    for (arguments, text) in [
        (&["export", "absent.csv", "--out", "library"][..], "cannot read absent.csv"),
        (&["export", "folder", "--out", "library"], "folder is a folder"),
        (&["export", "tasks.csv", "--out", "file"], "is a file"),
        (&["export", "tasks.csv", "--out", "library", "--reserve", "120"], "--reserve 120 leaves no requests"),
        (&["export", "tasks.csv", "--out", "library", "--metrics-file", "no/x.prom"], "--metrics-file"),
        (&["repair", "nowhere"], "nowhere is not an archive"),
        (&["summary", "nowhere", "--account"], "nowhere is not an archive"),
        (&["export", "tasks.csv", "--out", "library"], "no API key"),
    ] {
        let mut command = env.program();
        let ended = CommandOutput::wait_for(command.args(arguments).env_remove("SUNOR_API_KEY").spawn().unwrap())
            .expect_status(2);
        assert!(ended.stderr.contains(text), "{arguments:?}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    assert!(!env.archive().exists());
}

#[test]
fn every_command_accepts_quiet() {
    let env = TestEnv::new();
    env.write_list(["t1"]);
    for arguments in [
        &["export", "tasks.csv", "--out", "library", "--assets", "none", "-q"][..],
        &["summary", "library", "-q"],
        &["verify", "library", "-q"],
        &["repair", "library", "-q"],
        &["compact", "library", "-q"],
        &["rebuild", "library", "-q"],
    ] {
        let ended = env.run(arguments).expect_status(0);
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", ""), "{arguments:?}");
    }
    env.run(&["completions", "bash", "-q"]).expect_status(0).expect_output("sunor-archive");
}

/// With `--progress json`, every line on stderr is a JSON event, and the last event is `finished`.
#[test]
fn compact_and_rebuild_report_progress() {
    let env = TestEnv::new();
    for task in ["t1", "t2", "t3"] {
        env.write_list([task]);
        env.export(&[]).expect_status(0);
    }
    for command in ["compact", "rebuild"] {
        let ended = env.run(&[command, "library", "--progress", "json"]).expect_status(0);
        let events: Vec<serde_json::Value> =
            ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
        assert!(of("rewriting") > 0 && of("checked") > 0, "{}", ended.stderr);
        assert_eq!(events.last().unwrap()["event"], "finished", "{}", ended.stderr);
        let again = env.run(&[command, "library", "--progress", "json"]).expect_status(0);
        assert!(again.stderr.lines().last().unwrap().contains("\"finished\""), "{}", again.stderr);
        let off = env.run(&[command, "library", "--progress", "off"]).expect_status(0);
        assert_eq!(off.stderr, "");
        env.run(&[command, "library", "-v"]).expect_status(0);
    }
    env.run(&["rebuild", "library", "-v"]).expect_status(0).expect_output("tasks/").expect_output(": checked");
}
