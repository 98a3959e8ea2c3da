//! Flattens a response into rows. Flattening has no side effects and never fails. A value of the wrong type is stored
//! as null in its own column. The `response` column still contains the original value.

use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;

use super::schema::{ClipRow, LyricsRow, TaskRow};
use crate::{
    asset::AssetKind,
    json::{self, Object},
    run_id::RunId,
    status::FinalStatus,
    timestamp::MicrosTimestamp,
};

/// The task ID and the status from a response, the time at which the response was received, and the run that fetched
/// it.
#[derive(Clone, Debug)]
pub(crate) struct FetchInfo {
    pub(crate) task_id: String,
    pub(crate) status: FinalStatus,
    pub(crate) fetched_at: MicrosTimestamp,
    pub(crate) run_id: RunId,
}

/// The rows of one task in the tables `tasks`, `clips` and `lyrics`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rows {
    pub(crate) task: TaskRow,
    pub(crate) clips: Vec<ClipRow>,
    pub(crate) lyrics: Option<LyricsRow>,
}

/// Flattens the `data` object of a task into rows. `data` is unchanged from the response, except that lone surrogates
/// have been replaced.
pub(crate) fn flatten(info: &FetchInfo, data: &str) -> Rows {
    // Parsing should not fail, because the journal contains only JSON objects. If it does fail, an empty object is
    // used.
    let task = Object::parse(data).or_else(|| Object::parse("{}")).expect("`{}` is an object");
    let input = task.object("input");
    let output = task.object("output");
    let result = output.as_ref().and_then(|output| output.get("result"));
    let fields = TaskFields {
        model: task.text("model"),
        r#type: task.text("type"),
        created_at: task.time("created_at"),
        completed_at: task.time("completed_at"),
    };
    let clips = clip_objects(fields.r#type.as_deref(), result)
        .into_iter()
        .filter_map(|(index, element)| Some(clip(info, &fields, index, element.get(), &Object::from_raw(element)?)))
        .collect::<Vec<_>>();
    let lyrics = match (fields.r#type.as_deref(), result) {
        (Some("lyrics"), Some(result)) => lyrics(info, &fields, result),
        _ => None,
    };
    let row = TaskRow {
        task_id: info.task_id.clone(),
        model: fields.model,
        r#type: fields.r#type,
        status: info.status,
        credits_cost: task.number("credits_cost"),
        prompt: input.as_ref().and_then(|input| {
            input.non_empty_text("gpt_description_prompt").or_else(|| input.non_empty_text("prompt"))
        }),
        instrumental: input.as_ref().and_then(instrumental),
        error: task.non_empty_text("error").or_else(|| output.as_ref()?.text("fail_reason")),
        progress: output.as_ref().and_then(|output| output.text("progress")),
        clip_count: i32::try_from(clips.len()).unwrap_or(i32::MAX),
        created_at: fields.created_at,
        completed_at: fields.completed_at,
        fetched_at: info.fetched_at,
        run_id: info.run_id.clone(),
        input: task.object_text("input").map(str::to_owned),
        response: Some(data.to_owned()),
    };
    Rows { task: row, clips, lyrics }
}

/// Returns the row in `tasks` for a task that the API did not find. `clip_count` is the number of the task's clips in
/// the archive.
pub(crate) fn not_found_row(info: &FetchInfo, message: Option<String>, clip_count: i32) -> Rows {
    let row = TaskRow {
        task_id: info.task_id.clone(),
        model: None,
        r#type: None,
        status: info.status,
        credits_cost: None,
        prompt: None,
        instrumental: None,
        error: message,
        progress: None,
        clip_count,
        created_at: None,
        completed_at: None,
        fetched_at: info.fetched_at,
        run_id: info.run_id.clone(),
        input: None,
        response: None,
    };
    Rows { task: row, clips: Vec::new(), lyrics: None }
}

/// The times at which a task was created and completed, if the response contains them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TaskTimes {
    pub(crate) created_at: Option<MicrosTimestamp>,
    completed_at: Option<MicrosTimestamp>,
}

/// The period after a task's completion during which its clips may still change. The period of 24 hours is a product
/// requirement.
const CLIP_COMPLETION_WINDOW: SignedDuration = SignedDuration::from_hours(24);

impl TaskTimes {
    /// Returns whether the clips of the task may still change at the given time. Clips may change for 24 hours after
    /// the task was completed or, if the completion time is unknown, after the task was created. Returns `true` if both
    /// times are unknown.
    pub(crate) fn may_change(&self, at: Timestamp) -> bool {
        let Some(since) = self.completed_at.or(self.created_at) else { return true };
        at.as_microsecond() - since.as_microsecond() < CLIP_COMPLETION_WINDOW.as_micros() as i64
    }
}

/// Reads the creation and completion times of a task from its `data`.
pub(crate) fn task_times(data: &str) -> TaskTimes {
    let task = Object::parse(data);
    let time = |key| task.as_ref()?.text(key).as_deref().and_then(MicrosTimestamp::parse);
    TaskTimes { created_at: time("created_at"), completed_at: time("completed_at") }
}

/// The values of a task that are repeated in the rows of its clips and lyrics.
struct TaskFields {
    model: Option<String>,
    r#type: Option<String>,
    created_at: Option<MicrosTimestamp>,
    completed_at: Option<MicrosTimestamp>,
}

/// Returns whether a task is instrumental. The input of a suno task contains a flag for this, and the input of a udio
/// task contains the type of the lyrics.
fn instrumental(input: &Object<'_>) -> Option<bool> {
    input.boolean("make_instrumental").or_else(|| Some(input.text("lyrics_type")? == "instrumental"))
}

/// Returns the clips in a task's `result`, each with its index.
fn clip_objects<'a>(kind: Option<&str>, result: Option<&'a RawValue>) -> Vec<(i32, &'a RawValue)> {
    let elements = match (kind, result) {
        (Some("music" | "upload" | "concat"), Some(result)) => json::elements(result),
        _ => Vec::new(),
    };
    (0..).zip(elements).filter(|(_, element)| json::is_object(element)).collect()
}

/// The URLs of a clip's assets, as sent by the provider.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClipUrls<'a> {
    pub(crate) clip_id: Option<String>,
    pub(crate) clip_index: i32,
    /// The JSON object of the clip, as sent by the provider.
    pub(crate) clip: &'a str,
    urls: [(AssetKind, Option<String>); 3],
}

impl ClipUrls<'_> {
    /// Returns the URL of the clip's asset of the given kind, if any.
    pub(crate) fn url(&self, kind: AssetKind) -> Option<&str> {
        self.urls.iter().find(|(other, _)| *other == kind).and_then(|(_, url)| url.as_deref())
    }
}

/// Returns the asset URLs of a task's clips, with one element for each clip row that [`flatten`] returns.
pub(crate) fn clip_urls(data: &str) -> Vec<ClipUrls<'_>> {
    let Some(task) = Object::parse(data) else { return Vec::new() };
    let result = task.object("output").and_then(|output| output.get("result"));
    let objects = clip_objects(task.text("type").as_deref(), result).into_iter();
    let urls = objects.filter_map(|(clip_index, element)| {
        let clip = Object::from_raw(element)?;
        let urls = [(AssetKind::Audio, "audio_url"), (AssetKind::Image, "image_url"), (AssetKind::Video, "video_url")];
        let urls = urls.map(|(kind, key)| (kind, clip.text(key)));
        Some(ClipUrls { clip_id: clip.text("id"), clip_index, clip: element.get(), urls })
    });
    urls.collect()
}

fn clip(info: &FetchInfo, fields: &TaskFields, clip_index: i32, text: &str, clip: &Object<'_>) -> ClipRow {
    let metadata = clip.object("metadata");
    let text_of = |key| metadata.as_ref().and_then(|metadata| metadata.text(key));
    ClipRow {
        clip_id: clip.text("id"),
        task_id: info.task_id.clone(),
        clip_index,
        model: fields.model.clone(),
        r#type: fields.r#type.clone(),
        title: clip.text("title"),
        duration_seconds: metadata.as_ref().and_then(|metadata| metadata.number("duration")),
        tags: text_of("tags"),
        lyrics: text_of("prompt"),
        model_version: clip.non_empty_text("model_name").or_else(|| clip.text("major_model_version")),
        audio_url: clip.text("audio_url"),
        image_url: clip.text("image_url"),
        video_url: clip.text("video_url"),
        created_at: fields.created_at,
        completed_at: fields.completed_at,
        fetched_at: info.fetched_at,
        run_id: info.run_id.clone(),
        metadata: clip.object_text("metadata").map(str::to_owned),
        clip: clip.without_key("metadata").unwrap_or_else(|| text.to_owned()),
    }
}

fn lyrics(info: &FetchInfo, fields: &TaskFields, result: &RawValue) -> Option<LyricsRow> {
    let lyrics = Object::from_raw(result)?;
    Some(LyricsRow {
        task_id: info.task_id.clone(),
        model: fields.model.clone(),
        title: lyrics.text("title"),
        text: lyrics.text("text"),
        created_at: fields.created_at,
        completed_at: fields.completed_at,
        fetched_at: info.fetched_at,
        run_id: info.run_id.clone(),
        result: json::object_text(result)?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info() -> FetchInfo {
        FetchInfo {
            task_id: "t1".into(),
            status: FinalStatus::Success,
            fetched_at: MicrosTimestamp::parse("2026-01-02T03:04:05Z").unwrap(),
            run_id: RunId::example(),
        }
    }

    fn rows(data: &str) -> Rows {
        flatten(&info(), data)
    }

    fn music(result: &str) -> Rows {
        rows(&format!(r#"{{"type":"music","status":"success","output":{{"result":{result}}}}}"#))
    }

    #[test]
    fn clips_are_found_in_results_of_any_shape() {
        for (result, indices) in [
            ("null", vec![]),
            ("[]", vec![]),
            (r#""text""#, vec![]),
            ("{}", vec![0]),
            ("[{}]", vec![0]),
            (r#"[1,{"id":"a"},null,[{}],{"id":2}]"#, vec![1, 4]),
        ] {
            let rows = music(result);
            assert_eq!(rows.clips.iter().map(|clip| clip.clip_index).collect::<Vec<_>>(), indices, "{result}");
            assert_eq!(rows.task.clip_count as usize, indices.len());
        }
    }

    #[test]
    fn each_clip_has_its_urls() {
        let data = r#"{"type":"music","output":{"result":[1,{"id":"a","audio_url":"u","image_url":7},{}]}}"#;
        let clips = clip_urls(data);
        let rows = rows(data).clips;
        assert_eq!(clips.iter().map(|clip| clip.clip_index).collect::<Vec<_>>(), [1, 2]);
        for (clip, row) in clips.iter().zip(&rows) {
            assert_eq!((&clip.clip_id, clip.clip, clip.clip_index), (&row.clip_id, row.clip.as_str(), row.clip_index));
            let urls = [&row.audio_url, &row.image_url, &row.video_url];
            assert!(AssetKind::ALL.iter().zip(urls).all(|(kind, url)| clip.url(*kind) == url.as_deref()));
        }
        assert_eq!((clips[0].url(AssetKind::Image), clips[1].url(AssetKind::Audio)), (Some("7"), None));
    }

    #[test]
    fn clip_metadata_is_stored_in_its_own_column() {
        for (result, clip, metadata) in [
            (r#"{"id":"a"}"#, r#"{"id":"a"}"#, None),
            (r#"{ "id" : "a" }"#, r#"{ "id" : "a" }"#, None),
            (
                r#"{"id":"a","metadata":{"tags":"x"},"\"q\"":[1, 2]}"#,
                r#"{"id":"a","\"q\"":[1, 2]}"#,
                Some(r#"{"tags":"x"}"#),
            ),
            (r#"{"metadata":{"a":1},"id":1.50,"id":2,"metadata":null}"#, r#"{"id":1.50,"id":2}"#, None),
            (r#"{"metadata":"text"}"#, "{}", None),
        ] {
            let row = music(result).clips.remove(0);
            assert_eq!((row.clip.as_str(), row.metadata.as_deref()), (clip, metadata), "{result}");
        }
    }

    #[test]
    fn only_known_types_have_clips_or_lyrics() {
        for (kind, clips, lyrics) in
            [("upload", 1, 0), ("concat", 1, 0), ("lyrics", 0, 1), ("stems", 0, 0), ("MUSIC", 0, 0)]
        {
            let rows = rows(&format!(r#"{{"type":"{kind}","output":{{"result":{{"title":"x"}}}}}}"#));
            assert_eq!((rows.clips.len(), usize::from(rows.lyrics.is_some())), (clips, lyrics), "{kind}");
        }
    }

    #[test]
    fn an_empty_string_is_replaced_by_its_fallback() {
        let rows = rows(
            r#"{"type":"music","error":"","input":{"gpt_description_prompt":"","prompt":"p"},
                "output":{"fail_reason":"f","result":{"model_name":"","major_model_version":"v4"}}}"#,
        );
        assert_eq!(rows.task.error.as_deref(), Some("f"));
        assert_eq!(rows.task.prompt.as_deref(), Some("p"));
        assert_eq!(rows.clips[0].model_version.as_deref(), Some("v4"));
    }

    #[test]
    fn instrumental_is_read_from_the_flag_or_the_lyrics_type() {
        for (input, expected) in [
            (r#"{"make_instrumental":true,"lyrics_type":"user"}"#, Some(true)),
            (r#"{"make_instrumental":"yes","lyrics_type":"instrumental"}"#, Some(true)),
            (r#"{"lyrics_type":"generate"}"#, Some(false)),
            (r#"{"lyrics_type":null}"#, None),
            ("{}", None),
        ] {
            assert_eq!(rows(&format!(r#"{{"input":{input}}}"#)).task.instrumental, expected, "{input}");
        }
    }

    #[test]
    fn a_field_of_another_type_is_null_in_its_column_and_kept_in_the_response() {
        let data = r#"{"model":{},"type":["x"],"status":"success","credits_cost":"10","input":"text","output":[{"progress":50}],"created_at":1}"#;
        let task = rows(data).task;
        assert_eq!((task.model, task.r#type, task.input, task.created_at), (None, None, None, None));
        assert_eq!(task.credits_cost, Some(10.0));
        assert_eq!(task.progress.as_deref(), Some("50"));
        assert_eq!(task.response.as_deref(), Some(data));
    }

    /// Generates arbitrary JSON documents whose keys include names that [`flatten`] reads.
    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[0-9.e+-]{0,6}".prop_map(Into::into),
            ".*".prop_map(Into::into),
            prop::sample::select(vec!["music", "lyrics", "success", "2025-01-15T10:30:00Z"]).prop_map(Into::into),
        ];
        let key = prop_oneof![
            prop::sample::select(vec![
                "type", "input", "output", "result", "metadata", "id", "duration", "prompt", "error"
            ])
            .prop_map(str::to_owned),
            ".{0,3}",
        ];
        leaf.prop_recursive(6, 80, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::hash_map(key.clone(), inner, 0..6).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_document_is_flattened_without_data_loss(json in any_json(), kind in "music|lyrics|upload|stems", result in any_json()) {
            let full = serde_json::json!({"task_id": "t1", "type": kind, "extra": json, "output": {"result": result}});
            for document in [&full, &json] {
                let data = document.to_string();
                let rows = rows(&data);
                prop_assert_eq!(rows.task.response.as_deref(), Some(data.as_str()));
                prop_assert_eq!(rows.task.clip_count as usize, rows.clips.len());
            }
            let objects = match &result {
                serde_json::Value::Array(elements) => elements.iter().filter(|element| element.is_object()).count(),
                other => usize::from(other.is_object()),
            };
            let rows = rows(&full.to_string());
            let expected = match kind.as_str() { "lyrics" => (0, objects.min(1)), "stems" => (0, 0), _ => (objects, 0) };
            prop_assert_eq!((rows.clips.len(), usize::from(rows.lyrics.is_some())), expected);
        }
    }
}
