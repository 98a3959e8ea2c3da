//! Lenient parsing of JSON from external sources.
//!
//! The API may differ from its documentation, so a field that is null or has an unexpected type counts as absent.
//! Values are kept as [`RawValue`]s, which preserve the original text byte for byte, and are parsed only when a column
//! needs them. Deep nesting is safe, because `serde_json` skips a raw value without recursion.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::timestamp::MicrosTimestamp;

/// The members of a JSON object, in the original order and as the original text.
#[derive(Debug)]
pub(crate) struct Object<'a>(Vec<(Key<'a>, &'a RawValue)>);

/// The name of a member. A name without escape sequences is borrowed from the JSON text, which saves about fifty
/// allocations per response.
#[derive(Debug)]
struct Key<'a>(Cow<'a, str>);

impl<'a> Object<'a> {
    /// Parses `text` as an object. If the value is an array, returns the first object in the array. Returns `None` for
    /// any other JSON value, and if `text` is not valid JSON.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        Self::from_raw(serde_json::from_str(text).ok()?)
    }

    /// Parses `text` as an object, like [`Object::parse`], but returns an error if `text` is not valid JSON.
    pub(crate) fn try_parse(text: &'a str) -> serde_json::Result<Option<Self>> {
        // Most JSON documents are objects, which are parsed in a single pass.
        serde_json::from_str(text).map(Some).or_else(|_| serde_json::from_str(text).map(Self::from_raw))
    }

    /// Parses a raw value as an object. If the value is an array, returns the first object in the array. Returns `None`
    /// for any other value.
    pub(crate) fn from_raw(value: &'a RawValue) -> Option<Self> {
        serde_json::from_str(object_text(value)?).ok()
    }

    /// The raw value of a member, including `null`. If several members have the same key, the last member is used.
    pub(crate) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(name, _)| name.0 == key).map(|(_, value)| *value)
    }

    /// The value of a member that is a string, or the JSON text of a member that is a number.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        text(self.get(key)?)
    }

    /// Returns the same value as [`Object::text`], but `None` for an empty string, so that the caller can use a
    /// fallback.
    pub(crate) fn non_empty_text(&self, key: &str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    /// The value of a member that is a finite number, or a string that contains a decimal number.
    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        decimal(&text(self.get(key)?)?)
    }

    /// The value of a boolean member.
    pub(crate) fn boolean(&self, key: &str) -> Option<bool> {
        serde_json::from_str(self.get(key)?.get()).ok()
    }

    /// The value of a member that is a timestamp.
    pub(crate) fn time(&self, key: &str) -> Option<MicrosTimestamp> {
        MicrosTimestamp::parse(&self.text(key)?)
    }

    /// The value of a member that is an object. If the value is an array, returns the first object in the array.
    pub(crate) fn object(&self, key: &str) -> Option<Object<'a>> {
        Self::from_raw(self.get(key)?)
    }

    /// The JSON text of the object without the members named `key`, or `None` if there are no such members. The values
    /// of the remaining members are unchanged.
    pub(crate) fn without_key(&self, key: &str) -> Option<String> {
        let is_kept = |(name, _): &&(Key<'_>, &RawValue)| name.0 != key;
        let members: Vec<String> = self.0.iter().filter(is_kept).map(|(name, value)| member(&name.0, value)).collect();
        (members.len() < self.0.len()).then(|| format!("{{{}}}", members.join(",")))
    }

    /// The original text of a member that is an object. If the value is an array, returns the text of the first object
    /// in the array.
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

/// The elements of an array. An object counts as an array with one element. Any other value has no elements.
pub(crate) fn elements(value: &RawValue) -> Vec<&RawValue> {
    match value.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(value.get()).unwrap_or_default(),
        Some(b'{') => vec![value],
        _ => Vec::new(),
    }
}

/// Whether a value is an object.
pub(crate) fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

/// The raw text of an object. If the value is an array, returns the text of the first object in the array. Returns
/// `None` for any other value.
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

/// Parses a decimal number, which may have a sign, a decimal point and an exponent. Surrounding whitespace is ignored.
/// Returns `None` for any other text, and for a number outside the range of a finite `f64`.
fn decimal(text: &str) -> Option<f64> {
    let digits = text.trim();
    // `f64::from_str` also accepts "inf", "infinity" and "nan".
    let is_decimal = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    digits.parse().ok().filter(|number: &f64| is_decimal && number.is_finite())
}

/// Replaces every escape of a lone surrogate with `\ufffd`, so that any JSON parser accepts the text. Returns `None` if
/// there is no lone surrogate, which is the usual case.
pub(crate) fn replace_surrogates(text: &str) -> Option<String> {
    let mut replaced = String::new();
    let mut copied = 0;
    let mut position = 0;
    while let Some(found) = text.get(position..)?.find('\\') {
        let escape = position + found;
        let pair = unicode_escape(text, escape);
        position = match pair {
            Some(0xD800..=0xDBFF) if matches!(unicode_escape(text, escape + 6), Some(0xDC00..=0xDFFF)) => escape + 12,
            Some(0xD800..=0xDFFF) => {
                replaced.push_str(text.get(copied..escape)?);
                replaced.push_str("\\ufffd");
                copied = escape + 6;
                copied
            }
            Some(_) => escape + 6,
            // Any other escape has two characters. The second character may be a backslash, which does not start
            // another escape.
            None => escape + 1 + text.get(escape + 1..)?.chars().next().map_or(0, char::len_utf8),
        };
    }
    if copied == 0 {
        return None;
    }
    replaced.push_str(text.get(copied..)?);
    Some(replaced)
}

/// The UTF-16 code unit of a `\uXXXX` escape that begins at byte `position`.
fn unicode_escape(text: &str, position: usize) -> Option<u16> {
    let digits = text.get(position..position + 6)?.strip_prefix("\\u")?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_duplicate_key_wins() {
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
        for empty in ["i", "big", "x", "t", "absent"] {
            assert_eq!(object.number(empty), None, "{empty}");
        }
        assert_eq!(object.text("t"), None);
    }

    #[test]
    fn an_array_is_read_as_its_first_object() {
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
        fn no_input_causes_a_panic(text in "\\PC*") {
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
