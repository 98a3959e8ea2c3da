//! What goes wrong in a simulated world, and when.

use serde::Deserialize;

use super::window::Window;

/// The weather of a world. Fair and without a rate limit unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weather {
    /// The rate window; absent: no limit at all.
    pub window: Option<Window>,
    /// The only key that is taken; absent: any.
    pub key: Option<String>,
    /// After this many requests the key is refused.
    pub revoke_after: Option<u64>,
    /// The share of tasks that are still under way at the start, from 0 to 1; absent: 0.12.
    pub unfinished: Option<f64>,
    /// How long those still take at most, in seconds; absent: 10.
    pub unfinished_seconds: Option<f64>,
    /// What goes wrong with single requests; the first that applies does.
    pub faults: Vec<Fault>,
}

/// One kind of trouble.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Fault {
    /// What happens.
    #[serde(flatten)]
    pub trouble: Trouble,
    /// To which requests.
    #[serde(flatten)]
    pub when: When,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// An HTTP status with an HTML body, as a proxy in front would send it.
    Status(u16),
    /// A 429 that names this many seconds in `Retry-After`.
    TooMany(u64),
    /// Status 200 with this text in place of the document.
    Body(String),
    /// Status 200, and the connection breaks after this many bytes of the document.
    Truncated(usize),
    /// The connection breaks before any answer.
    Reset,
    /// Nothing comes for this many seconds.
    Stall(f64),
}

/// Which requests a fault meets.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct When {
    /// The first so many requests for each task; absent: all of them.
    pub first: Option<u32>,
    /// Only requests for this task.
    pub task: Option<String>,
    /// Only this share of the tasks, chosen by the seed, from 0 to 1.
    pub share: Option<f64>,
}

impl When {
    /// Every request.
    pub const ALWAYS: Self = Self { first: None, task: None, share: None };

    /// The first `requests` for each task.
    #[must_use]
    pub fn first(requests: u32) -> Self {
        Self { first: Some(requests), ..Self::ALWAYS }
    }

    /// Every request for one task.
    #[must_use]
    pub fn task(id: &str) -> Self {
        Self { task: Some(id.into()), ..Self::ALWAYS }
    }

    /// Whether it meets the request that is a task's `nth`, from 1; `luck` is that task's, from 0 to 1.
    pub(super) fn meets(&self, id: &str, nth: u32, luck: f64) -> bool {
        self.first.is_none_or(|first| nth <= first)
            && self.task.as_ref().is_none_or(|task| task == id)
            && self.share.is_none_or(|share| luck < share)
    }
}
