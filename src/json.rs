//! Lenient parsing of JSON from external sources.
//!
//! The live API may differ from its documentation, so a field that is absent, null or of another type counts as absent.
//! Values stay [`RawValue`]s, the text as sent, until a column needs them. That keeps every byte, and deep nesting does
//! not use the stack, because `serde_json` skips a raw value without recursion.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::timestamp::Moment;

/// The members of one JSON object, in order, as sent.
#[derive(Debug)]
pub(crate) struct Object<'a>(Vec<(Key<'a>, &'a RawValue)>);

/// The name of a member. A name without escapes is borrowed: allocating names took a tenth of the time of flattening.
#[derive(Debug)]
struct Key<'a>(Cow<'a, str>);

impl<'a> Object<'a> {
    /// Parses `text` as an object; of an array, its first object. `None` for anything else.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        Self::of(serde_json::from_str(text).ok()?)
    }

    /// Parses `text` as an object as [`Object::parse`] does, and distinguishes text that is not JSON.
    pub(crate) fn read(text: &'a str) -> serde_json::Result<Option<Self>> {
        // Most texts are objects, and are read once.
        serde_json::from_str(text).map(Some).or_else(|_| serde_json::from_str(text).map(Self::of))
    }

    /// Parses a raw value as an object; of an array, its first object. `None` for anything else.
    pub(crate) fn of(value: &'a RawValue) -> Option<Self> {
        serde_json::from_str(object_text(value)?).ok()
    }

    /// The raw value of a member, null included. Of duplicate keys the last counts.
    pub(crate) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(name, _)| name.0 == key).map(|(_, value)| *value)
    }

    /// A string, or a number as its text.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        text(self.get(key)?)
    }

    /// A non-empty text: `None` also for an empty one, so that a fallback applies.
    pub(crate) fn filled(&self, key: &str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    /// A finite number, or a decimal string as its number.
    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        decimal(&text(self.get(key)?)?)
    }

    /// A boolean.
    pub(crate) fn boolean(&self, key: &str) -> Option<bool> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    /// A point in time.
    pub(crate) fn time(&self, key: &str) -> Option<Moment> {
        Moment::parse(&self.text(key)?)
    }

    /// A nested object; of an array, its first object.
    pub(crate) fn object(&self, key: &str) -> Option<Object<'a>> {
        Self::of(self.get(key)?)
    }

    /// The text of the object without the members of that name; `None` if it has none. The values are as sent.
    pub(crate) fn without(&self, key: &str) -> Option<String> {
        let is_left = |(name, _): &&(Key<'_>, &RawValue)| name.0 != key;
        let members: Vec<String> = self.0.iter().filter(is_left).map(|(name, value)| member(&name.0, value)).collect();
        (members.len() < self.0.len()).then(|| format!("{{{}}}", members.join(",")))
    }

    /// The text of a nested object as sent; of an array, its first object.
    pub(crate) fn object_text(&self, key: &str) -> Option<&'a str> {
        object_text(self.get(key)?)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Key<'de>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(Object)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Text).map(Key)
    }
}

fn member(name: &str, value: &RawValue) -> String {
    format!("{}:{}", serde_json::Value::from(name), value.get())
}

/// The elements of an array; an object counts as an array of one. Empty for anything else.
pub(crate) fn elements(value: &RawValue) -> Vec<&RawValue> {
    match value.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(value.get()).unwrap_or_default(),
        Some(b'{') => vec![value],
        _ => Vec::new(),
    }
}

/// Whether the value is an object.
pub(crate) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// The raw text of an object; for an array, that of its first object. `None` for anything else.
pub(crate) fn object_text(value: &RawValue) -> Option<&str> {
    elements(value).into_iter().find(|element| is_object(element)).map(RawValue::get)
}

fn text(value: &RawValue) -> Option<String> {
    match value.get().as_bytes().first()? {
        b'"' => serde_json::from_str(value.get()).ok(),
        b'-' | b'0'..=b'9' => Some(value.get().to_owned()),
        _ => None,
    }
}

/// Parses a decimal: digits with sign, point and exponent, surrounding blanks ignored. `None` for anything else, and for
/// values beyond a finite double.
fn decimal(text: &str) -> Option<f64> {
    let digits = text.trim();
    // `f64::from_str` would also take "inf", "infinity" and "nan".
    let spelled = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    digits.parse().ok().filter(|number: &f64| spelled && number.is_finite())
}

/// Replaces every lone surrogate escape by `\ufffd`, so that any JSON reader accepts the text. `None` if there is none,
/// which is the usual case.
pub(crate) fn replace_surrogates(text: &str) -> Option<String> {
    let mut replaced = String::new();
    let mut kept = 0;
    let mut at = 0;
    while let Some(found) = text.get(at..)?.find('\\') {
        let escape = at + found;
        let pair = unicode_escape(text, escape);
        at = match pair {
            Some(0xD800..=0xDBFF) if matches!(unicode_escape(text, escape + 6), Some(0xDC00..=0xDFFF)) => escape + 12,
            Some(0xD800..=0xDFFF) => {
                replaced.push_str(text.get(kept..escape)?);
                replaced.push_str("\\ufffd");
                kept = escape + 6;
                kept
            }
            Some(_) => escape + 6,
            // Any other escape is two characters: the second may be a backslash, which does not start an escape.
            None => escape + 1 + text.get(escape + 1..)?.chars().next().map_or(0, char::len_utf8),
        };
    }
    if kept == 0 {
        return None;
    }
    replaced.push_str(text.get(kept..)?);
    Some(replaced)
}

/// The code unit of a `\uXXXX` escape that begins at byte `at`.
fn unicode_escape(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_of_duplicate_keys_counts() {
        let object = Object::parse(r#"{"a":1,"a":"two"}"#).unwrap();
        assert_eq!(object.text("a").as_deref(), Some("two"));
    }

    #[test]
    fn numbers_and_decimal_strings_convert_to_each_other() {
        let object =
            Object::parse(r#"{"n":1.50,"s":" 240 ","e":"1e3","i":"inf","big":1e999,"x":"0x1","t":true}"#).unwrap();
        assert_eq!(object.text("n").as_deref(), Some("1.50"));
        assert_eq!(object.number("s"), Some(240.0));
        assert_eq!(object.number("e"), Some(1000.0));
        for nothing in ["i", "big", "x", "t", "absent"] {
            assert_eq!(object.number(nothing), None, "{nothing}");
        }
        assert_eq!(object.text("t"), None);
    }

    #[test]
    fn an_array_instead_of_an_object_is_its_first_object() {
        let object = Object::parse(r#"{"o":[1,[{"no":0}],{"yes":1},{"no":2}],"none":[1]}"#).unwrap();
        assert_eq!(object.object_text("o"), Some(r#"{"yes":1}"#));
        assert!(object.object("none").is_none());
    }

    #[test]
    fn nesting_of_any_depth_is_read() {
        let deep = format!(r#"{{"a":{}{},"b":2}}"#, "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(Object::parse(&deep).unwrap().number("b"), Some(2.0));
    }

    #[test]
    fn only_lone_surrogates_are_replaced() {
        assert_eq!(replace_surrogates(r#"["\ud83d\ude00","\\ud83d","\u0041"]"#), None);
        assert_eq!(
            replace_surrogates(r#"["\ud83d","\ude00x\ud83d\ud83d\ude00"]"#).as_deref(),
            Some(r#"["\ufffd","\ufffdx\ufffd\ud83d\ude00"]"#)
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*") {
            let _ = Object::parse(&text);
            let _ = replace_surrogates(&text);
            let _ = decimal(&text);
        }

        #[test]
        fn json_with_replaced_surrogates_is_valid(units in prop::collection::vec(any::<u16>(), 0..40)) {
            let escaped = units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
            let text = format!("\"{escaped}\"");
            let strict = replace_surrogates(&text).unwrap_or(text);
            let decoded: String = serde_json::from_str(&strict).unwrap();
            prop_assert_eq!(decoded, String::from_utf16_lossy(&units));
        }
    }
}
