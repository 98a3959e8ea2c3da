//! The samples are what they say.

mod common;

use std::collections::BTreeSet;

use common::{Scene, samples};
use sunor_archive::simulator::World;

/// Weather: fair; some tasks take a few seconds.
#[test]
fn the_sample_list_has_every_type_model_and_fate() {
    let scene = Scene::world(World::default());
    let list = samples().join("tasks.csv");
    let run = [
        "export",
        list.to_str().unwrap(),
        "--out",
        "library",
        "--format",
        "csv",
        "--rate",
        "unlimited",
        "--poll-interval",
        "1s",
    ];
    scene.run(&run).expect(0).says("Archived 24 of 24 tasks");
    let rows = scene.rows("tasks");
    let distinct = |column: &str| rows.iter().map(|row| row[column].as_str()).collect::<BTreeSet<_>>();
    assert_eq!(distinct("status"), BTreeSet::from(["failure", "not_found", "success", "timeout"]));
    assert_eq!(distinct("type"), BTreeSet::from(["", "concat", "lyrics", "music", "upload"]));
    assert_eq!(distinct("model"), BTreeSet::from(["", "suno", "udio"]));
    assert!(scene.summary()["requests"]["polls"].as_u64().unwrap() > 0, "no task takes a while");
}
