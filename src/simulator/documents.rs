//! Generates the documents of simulated tasks of every type, model and status. The same seed and task ID always give
//! the same document.

use std::time::Duration;

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::faults::FaultPlan;

/// The default fraction of tasks that are in progress when the simulator starts.
const DEFAULT_UNFINISHED_FRACTION: f64 = 0.12;

/// The default maximum time, in seconds, until a task in progress finishes. The default is small so that a trial of the
/// program finishes quickly.
const DEFAULT_MAX_UNFINISHED_SECONDS: f64 = 10.0;

const TITLES: [&str; 8] = [
    "Summer Days",
    "Ocean Sunset",
    "快乐周末",
    "Ночной поезд",
    "¿Dónde estás?",
    "Rain / Roof",
    "\"Quoted\" 🎸",
    "夜のドライブ",
];
const TAGS: [&str; 6] = [
    "acoustic, cheerful, summer",
    "lo-fi, calm, piano",
    "rock, driving, guitar",
    "synthwave",
    "jazz, late night",
    "folk, female voice",
];
const PROMPTS: [&str; 5] = [
    "A cheerful acoustic guitar song about summer",
    "A slow piano piece for a rainy evening",
    "Something to drive through the night with",
    "A lullaby about a lighthouse",
    "A march for a very small army",
];
const VERSIONS: [(&str, &str); 4] =
    [("chirp-v3-5", "v3.5"), ("chirp-v4", "v4"), ("chirp-crow", "v5"), ("chirp-fenix", "v5")];

/// The final outcome of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure,
    Timeout,
}

/// The type of a task, and the model of a music task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    SunoMusic,
    UdioMusic,
    Lyrics,
    Upload,
    Concat,
}

/// A simulated task.
#[derive(Debug)]
pub(super) struct Task {
    id: String,
    exists: bool,
    kind: Kind,
    outcome: Outcome,
    created_at: Timestamp,
    completed_at: Timestamp,
    details_rng: Rng,
    /// The root URL of the CDN, without a trailing slash.
    cdn: String,
    /// A random number from 0 to 1 that is fixed for the task and determines which faults apply to it.
    pub(super) fault_sample: f64,
}

impl Task {
    /// Generates the task with this ID from the seed. `start` is the start time of the simulator, and `cdn` is the root
    /// URL of the CDN.
    pub(super) fn new(seed: u64, id: &str, start: Timestamp, faults: &FaultPlan, cdn: &str) -> Self {
        let mut rng = Rng::with_seed(hash(seed, id));
        let fault_sample = rng.f64();
        let exists = rng.f64() >= 0.05;
        let kind = match rng.u32(..100) {
            ..50 => Kind::SunoMusic,
            50..66 => Kind::UdioMusic,
            66..82 => Kind::Lyrics,
            82..91 => Kind::Upload,
            _ => Kind::Concat,
        };
        let outcome = match rng.u32(..100) {
            ..86 => Outcome::Success,
            86..95 => Outcome::Failure,
            _ => Outcome::Timeout,
        };
        let duration = SignedDuration::from_millis(rng.i64(30_000..300_000));
        let unfinished = rng.f64() < faults.unfinished.unwrap_or(DEFAULT_UNFINISHED_FRACTION);
        let completed_at = if unfinished {
            let max_seconds = faults.unfinished_seconds.unwrap_or(DEFAULT_MAX_UNFINISHED_SECONDS);
            start + Duration::from_secs_f64(max_seconds * (0.3 + 0.7 * rng.f64()))
        } else {
            // A time in 2025, long before the first request.
            Timestamp::from_millisecond(1_735_689_600_000 + rng.i64(0..25_000_000_000)).unwrap_or(start)
        };
        let (id, cdn) = (id.into(), cdn.into());
        Self {
            id,
            exists,
            kind,
            outcome,
            created_at: completed_at - duration,
            completed_at,
            details_rng: rng,
            cdn,
            fault_sample,
        }
    }

    /// Returns the task's document at the time `now`, and whether the document is final. Returns `None` if the task
    /// does not exist (404).
    pub(super) fn document(&self, now: Timestamp) -> Option<(Value, bool)> {
        let done = now >= self.completed_at;
        self.exists.then(|| (json!({ "code": 200, "data": self.data(now, done) }), done))
    }

    fn data(&self, now: Timestamp, done: bool) -> Value {
        let age = now.duration_since(self.created_at).as_secs_f64();
        let total_seconds = self.completed_at.duration_since(self.created_at).as_secs_f64();
        let running = age / total_seconds > 0.3;
        let (status, inner, progress) = match (done, self.outcome) {
            (false, _) if running => ("running", "processing", Some(format!("{:.0}%", 100.0 * age / total_seconds))),
            (false, _) => ("pending", "queued", None),
            (true, Outcome::Success) => ("success", "completed", Some("100%".into())),
            (true, Outcome::Failure) => ("failure", "failed", None),
            (true, Outcome::Timeout) => ("timeout", "failed", None),
        };
        let reason = match (done, self.outcome) {
            (true, Outcome::Failure) => Some("Upstream provider returned an error"),
            (true, Outcome::Timeout) => Some("The upstream provider did not answer in time"),
            _ => None,
        };
        let mut details_rng = self.details_rng.clone();
        let input = self.input(&mut details_rng);
        let result = if done && self.outcome == Outcome::Success { self.result(&mut details_rng) } else { Value::Null };
        json!({
            "task_id": self.id,
            "model": if self.kind == Kind::UdioMusic { "udio" } else { "suno" },
            "type": self.type_name(),
            "status": status,
            "credits_cost": match self.kind { Kind::SunoMusic => 10, Kind::Upload => 1, _ => 5 },
            "input": input,
            "output": if status == "pending" { Value::Null } else { json!({
                "task_type": self.type_name(),
                "status": inner,
                "progress": progress,
                "fail_reason": reason,
                "result": result,
            }) },
            "error": reason,
            "created_at": format_timestamp(self.created_at),
            "completed_at": done.then(|| format_timestamp(self.completed_at)),
        })
    }

    fn type_name(&self) -> &'static str {
        match self.kind {
            Kind::SunoMusic | Kind::UdioMusic => "music",
            Kind::Lyrics => "lyrics",
            Kind::Upload => "upload",
            Kind::Concat => "concat",
        }
    }

    fn input(&self, rng: &mut Rng) -> Value {
        let prompt = choose(&PROMPTS, rng);
        match self.kind {
            Kind::SunoMusic if rng.bool() => {
                json!({ "gpt_description_prompt": prompt, "make_instrumental": rng.bool() })
            }
            Kind::SunoMusic => json!({
                "prompt": "[Verse]\nOne line, and \"another\"\n\n[Chorus]\nSing it again",
                "tags": choose(&TAGS, rng),
                "title": choose(&TITLES, rng),
                "negative_tags": "",
                "mv": choose(&VERSIONS, rng).0,
            }),
            Kind::UdioMusic => json!({
                "prompt": prompt,
                "lyrics_type": choose(&["generate", "user", "instrumental"], rng),
                "seed": rng.i32(..),
            }),
            Kind::Lyrics => json!({ "prompt": prompt }),
            Kind::Upload => json!({ "url": format!("https://files.example/{}.mp3", uuid(rng)) }),
            Kind::Concat => json!({ "clip_id": uuid(rng) }),
        }
    }

    fn result(&self, rng: &mut Rng) -> Value {
        match self.kind {
            Kind::SunoMusic => {
                let (name, version) = choose(&VERSIONS, rng);
                let title = choose(&TITLES, rng);
                (0..2).map(|_| self.suno_clip(title, name, version, rng)).collect()
            }
            Kind::UdioMusic => (0..2).map(|_| self.udio_clip(choose(&TITLES, rng), rng)).collect(),
            Kind::Lyrics => json!({
                "title": choose(&TITLES, rng),
                "text": "[Verse]\nWaves are crashing on the shore\n\n[Chorus]\nAt the edge of the sea",
            }),
            Kind::Upload | Kind::Concat => {
                let id = uuid(rng);
                json!({ "audio_url": format!("{}/{id}.mp3", self.cdn), "id": id })
            }
        }
    }

    fn suno_clip(&self, title: &str, name: &str, version: &str, rng: &mut Rng) -> Value {
        let id = uuid(rng);
        json!({
            "id": id,
            "title": title,
            "status": "complete",
            "audio_url": format!("{}/{id}.mp3", self.cdn),
            "image_url": format!("{}/image_{id}.jpeg", self.cdn),
            "image_large_url": format!("{}/image_large_{id}.jpeg", self.cdn),
            "video_url": "",
            "model_name": name,
            "major_model_version": version,
            "is_public": false,
            "play_count": rng.u32(..50),
            "created_at": format_timestamp(self.created_at),
            "metadata": {
                "tags": choose(&TAGS, rng),
                "prompt": "[Verse]\nOne line, and \"another\"\n\n[Chorus]\nSing it again",
                "duration": (f64::from(rng.u32(6_000..30_000)) / 100.0),
                "type": "gen",
                "stream": true,
                "history": null,
            },
        })
    }

    /// Generates a Udio clip. The provider sends the duration of a Udio clip as a string.
    fn udio_clip(&self, title: &str, rng: &mut Rng) -> Value {
        let id = uuid(rng);
        json!({
            "id": id,
            "title": title,
            "audio_url": format!("{}/{id}.mp3", self.cdn),
            "image_url": format!("{}/{id}.png", self.cdn),
            "metadata": { "duration": rng.u32(30..200).to_string(), "tags": choose(&TAGS, rng) },
        })
    }
}

/// Returns a hash of the seed and an identifier, such as a task ID or a file name.
pub(super) fn hash(seed: u64, name: &str) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn choose<T: Copy>(choices: &[T], rng: &mut Rng) -> T {
    *rng.choice(choices).expect("the list of choices is not empty")
}

fn uuid(rng: &mut Rng) -> String {
    let n = rng.u128(..);
    let variant = 0x8 | (n >> 62 & 0x3);
    format!(
        "{:08x}-{:04x}-4{:03x}-{variant:x}{:03x}-{:012x}",
        n >> 96,
        n >> 80 & 0xffff,
        n >> 68 & 0xfff,
        n >> 50 & 0xfff,
        n & 0xffff_ffff_ffff
    )
}

fn format_timestamp(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_and_id_give_the_same_document() {
        let start = "2026-12-01T00:00:00Z".parse().unwrap();
        let document = |seed, id| Task::new(seed, id, start, &FaultPlan::default(), "http://cdn").document(start);
        assert_eq!(document(1, "a"), document(1, "a"));
        assert_ne!(document(1, "a"), document(2, "a"));
        assert_ne!(document(1, "a"), document(1, "b"));
    }

    #[test]
    fn an_unfinished_task_ends_within_the_limit() {
        let start: Timestamp = "2026-12-01T00:00:00Z".parse().unwrap();
        let faults = FaultPlan { unfinished: Some(1.0), ..FaultPlan::default() };
        for n in 0..50 {
            let task = Task::new(1, &n.to_string(), start, &faults, "http://cdn");
            let finished = |at| task.document(at).is_none_or(|(_, done)| done);
            assert!(!task.exists || !finished(start));
            assert!(finished(start + Duration::from_secs(11)));
        }
    }
}
