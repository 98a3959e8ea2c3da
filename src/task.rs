//! Task IDs, and the list of task IDs for a run.

use std::{fmt, hash::BuildHasher};

use hashbrown::{DefaultHashBuilder, HashTable};

/// The ID of a task, which is valid as a path segment of an API URL.
///
/// An ID is not empty and has at most [`TaskId::MAX_BYTES`] bytes. An ID contains no control characters, no invisible
/// characters, and none of the characters `/`, `\`, `?` and `#`. The strings `.` and `..` are not valid IDs, because a
/// URL cannot contain them as a path segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskId<'a>(&'a str);

/// The reason why a string is not a valid task ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidTaskId {
    /// The string is empty.
    Empty,
    /// The string is longer than [`TaskId::MAX_BYTES`] bytes.
    TooLong,
    /// The string is not UTF-8.
    NotUtf8,
    /// The string contains a character that is not allowed in an ID.
    InvalidCharacter(char),
    /// The string is `.` or `..`.
    DotSegment,
}

impl<'a> TaskId<'a> {
    /// The maximum length of an ID, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Parses `text` as an ID. Leading and trailing whitespace and invisible characters are ignored.
    ///
    /// # Errors
    /// Returns the reason why `text` is not a valid ID.
    pub fn parse(text: &'a str) -> Result<Self, InvalidTaskId> {
        let id = trim_invisible(text);
        match id {
            "" => Err(InvalidTaskId::Empty),
            "." | ".." => Err(InvalidTaskId::DotSegment),
            _ if id.len() > Self::MAX_BYTES => Err(InvalidTaskId::TooLong),
            _ => match id.chars().find(|c| c.is_control() || is_invisible(*c) || matches!(c, '/' | '\\' | '?' | '#')) {
                Some(character) => Err(InvalidTaskId::InvalidCharacter(character)),
                None => Ok(Self(id)),
            },
        }
    }

    /// The ID as a string.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

impl fmt::Display for TaskId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for InvalidTaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the ID is empty"),
            Self::TooLong => write!(f, "the ID is longer than {} bytes", TaskId::MAX_BYTES),
            Self::NotUtf8 => f.write_str("the ID is not UTF-8"),
            Self::InvalidCharacter(c) if c.is_control() => {
                write!(f, "the ID contains a control character (U+{:04X})", u32::from(*c))
            }
            Self::InvalidCharacter(c) if is_invisible(*c) => {
                write!(f, "the ID contains an invisible character (U+{:04X})", u32::from(*c))
            }
            Self::InvalidCharacter(c) => write!(f, "the ID contains `{c}`"),
            Self::DotSegment => f.write_str("the ID is `.` or `..`"),
        }
    }
}

/// Removes whitespace and invisible characters from both ends of `text`. Lists that were copied from spreadsheets or
/// chats often contain such characters.
pub(crate) fn trim_invisible(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c))
}

/// Whether `c` is invisible: a Unicode format character (`Cf`, including the byte-order mark), another code point that
/// `DerivedCoreProperties.txt` lists as `Default_Ignorable_Code_Point`, the blank Braille pattern, or the object
/// replacement character.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
        | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2800}' | '\u{fffc}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Whether two IDs are the same: equal strings, or UUIDs that differ only in case.
pub(crate) fn is_same_id(id: &str, requested: &str) -> bool {
    id == requested || is_uuid(requested) && id.eq_ignore_ascii_case(requested)
}

/// Whether `id` has the form of a UUID (RFC 9562, section 4).
pub(crate) fn is_uuid(id: &str) -> bool {
    id.len() == 36
        && id.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// The index of a task in a [`TaskList`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskIndex(u32);

impl TaskIndex {
    /// The index as a number, for use with vectors that are parallel to the list.
    #[must_use]
    pub fn get(self) -> usize {
        self.0 as usize
    }
}

/// A list of distinct task IDs in insertion order. The list uses three allocations: one string with all IDs, the end
/// offsets of the IDs, and a hash table of their indexes.
#[derive(Debug, Default)]
pub struct TaskList {
    ids: String,
    end_offsets: Vec<usize>,
    index_table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl TaskList {
    /// Adds an ID. Returns `false` for a duplicate.
    ///
    /// # Panics
    /// Panics if the list already contains 2³² IDs.
    pub fn insert(&mut self, id: TaskId<'_>) -> bool {
        if self.find(id.as_str()).is_some() {
            return false;
        }
        let index = u32::try_from(self.end_offsets.len()).expect("fewer than 2^32 IDs");
        self.ids.push_str(id.as_str());
        self.end_offsets.push(self.ids.len());
        let Self { ids, end_offsets, index_table, hasher } = self;
        index_table.insert_unique(hasher.hash_one(id.as_str()), index, |index| {
            hasher.hash_one(slice(ids, end_offsets, *index))
        });
        true
    }

    /// The index of an ID, or `None` if the list does not contain the ID.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<TaskIndex> {
        let same = |index: &u32| slice(&self.ids, &self.end_offsets, *index) == id;
        self.index_table.find(self.hasher.hash_one(id), same).map(|index| TaskIndex(*index))
    }

    /// The ID at an index.
    #[must_use]
    pub fn id(&self, index: TaskIndex) -> TaskId<'_> {
        TaskId(slice(&self.ids, &self.end_offsets, index.0))
    }

    /// All indexes, in order.
    ///
    /// # Panics
    /// Never panics, because [`TaskList::insert`] limits the length of the list.
    pub fn indices(&self) -> impl ExactSizeIterator<Item = TaskIndex> + Clone + use<> {
        (0..u32::try_from(self.end_offsets.len()).expect("fewer than 2^32 IDs")).map(TaskIndex)
    }

    /// The number of IDs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end_offsets.len()
    }

    /// Whether the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end_offsets.is_empty()
    }
}

fn slice<'a>(text: &'a str, end_offsets: &[usize], index: u32) -> &'a str {
    let index = index as usize;
    let start = index.checked_sub(1).and_then(|previous| end_offsets.get(previous)).copied().unwrap_or(0);
    end_offsets.get(index).and_then(|end| text.get(start..*end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_invalid_id_is_rejected_with_a_reason() {
        for (text, expected) in [
            ("  ", "the ID is empty"),
            ("a/b", "the ID contains `/`"),
            ("a\u{7}b", "the ID contains a control character (U+0007)"),
            ("..", "the ID is `.` or `..`"),
            ("a\u{200b}b", "the ID contains an invisible character (U+200B)"),
            ("\u{200b}\u{feff}", "the ID is empty"),
        ] {
            assert_eq!(TaskId::parse(text).unwrap_err().to_string(), expected);
        }
        assert!(TaskId::parse(&"x".repeat(128)).is_ok());
        assert_eq!(TaskId::parse(&"x".repeat(129)), Err(InvalidTaskId::TooLong));
        assert_eq!(TaskId::parse(" äb c ").unwrap().as_str(), "äb c");
        assert_eq!(TaskId::parse("\u{feff} t3\u{200b}\u{ad} ").unwrap().as_str(), "t3");
    }

    proptest! {
        #[test]
        fn a_list_contains_each_id_once_and_in_order(ids in prop::collection::vec("[a-c]{1,3}", 0..60)) {
            let mut list = TaskList::default();
            let mut seen = HashSet::new();
            let mut expected = Vec::new();
            for id in &ids {
                let new = seen.insert(id.clone());
                prop_assert_eq!(list.insert(TaskId::parse(id).unwrap()), new);
                if new {
                    expected.push(id.clone());
                }
            }
            let listed: Vec<String> = list.indices().map(|index| list.id(index).to_string()).collect();
            prop_assert_eq!(&listed, &expected);
            for (index, id) in expected.iter().enumerate() {
                prop_assert_eq!(list.find(id).map(TaskIndex::get), Some(index));
            }
            prop_assert_eq!(list.find("d"), None);
        }
    }
}
