//! Tests of changes to the wall clock during a run. A preloaded library shifts the clock for the built program.

#![cfg(target_os = "linux")]

mod common;

use std::process::Command;

use common::{CommandOutput, TestEnv, ids};

/// The source of a library that shifts the wall clock by `STEP` seconds, half a second after the process starts.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static struct timespec start;
    int (*real)(clockid_t, struct timespec *) = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    struct timespec since;
    real(CLOCK_MONOTONIC, &since);
    if (start.tv_sec == 0) start = since;
    long elapsed = (since.tv_sec - start.tv_sec) * 1000 + (since.tv_nsec - start.tv_nsec) / 1000000;
    int result = real(clock, now);
    if (clock == CLOCK_REALTIME && elapsed >= 500) now->tv_sec += atol(getenv("STEP"));
    return result;
}
"#;

#[test]
fn durations_do_not_follow_a_wall_clock_that_is_set_during_the_run() {
    for step in ["-3600", "86400"] {
        let env = TestEnv::new();
        let (source, library) = (env.write_file("clock.c", SHIM.as_bytes()), env.path("clock.so"));
        let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").status();
        assert!(built.unwrap().success());
        env.write_list(ids("t", 30));
        let metrics = env.path("metrics.prom");
        let mut command = env.export_command(&["--rate", "15/s", "--assets", "none", "--metrics-file"]);
        command.arg(&metrics).env("LD_PRELOAD", &library).env("STEP", step);
        let run = CommandOutput::wait_for(command.spawn().unwrap()).expect_status(0);

        let summary = env.summary();
        let time = |key: &str| summary[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let wall_clock = time("finished_at").duration_since(time("started_at")).as_secs();
        assert!(wall_clock.abs() > 3000, "the clock was not set: {wall_clock} s");
        let closing = run.stdout.lines().next().unwrap();
        let seconds = closing.rsplit(" in ").next().unwrap().trim_end_matches('s').parse::<u64>();
        assert!((1..60).contains(&seconds.unwrap()), "{closing}");
        let metrics = std::fs::read_to_string(&metrics).unwrap();
        let seconds = metrics.lines().find_map(|line| line.strip_prefix("sunor_archive_run_seconds "));
        assert!((1.0..60.0).contains(&seconds.unwrap().parse::<f64>().unwrap()), "{seconds:?}");
    }
}
