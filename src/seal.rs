//! Seals: the last key of a JSON object of the archive, `sha256`, tells the SHA-256 of everything that stands
//! before the comma in front of it, so that no byte of the object can be another unnoticed.
//!
//! Documents without a seal are as good as ever, since there may be some that are older than seals; but then
//! they hold no key that was not known at that time, lest a damaged seal pass for one more key.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::checksum;

const KEY: &str = "\"sha256\"";

/// Writes an object over several lines, with its seal.
pub(crate) fn pretty(document: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_string_pretty(document).expect("it has string keys only");
    over_lines(text.trim_end_matches("\n}")).into_bytes()
}

/// Writes an object on one line, with its seal.
pub(crate) fn line(document: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_string(document).expect("it has string keys only");
    on_one_line(text.strip_suffix('}').unwrap_or(&text)).into_bytes()
}

/// Reads an object, or tells what is wrong with it.
pub(crate) fn open<T: Serialize + DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let document: T = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let is_whole = match sealed_part(text) {
        Some(body) => [over_lines(body), on_one_line(body)].iter().any(|whole| whole == text),
        None => has_only_known_keys(text, &document),
    };
    if is_whole { Ok(document) } else { Err("some of its bytes are not what they were".into()) }
}

fn over_lines(body: &str) -> String {
    format!("{body},\n  {KEY}: \"{}\"\n}}\n", checksum::sha256(body))
}

fn on_one_line(body: &str) -> String {
    format!("{body},{KEY}:\"{}\"}}\n", checksum::sha256(body))
}

/// What a seal vouches for, if there is one.
fn sealed_part(text: &str) -> Option<&str> {
    let (before, _) = text.rsplit_once(KEY)?;
    before.trim_end().strip_suffix(',')
}

fn has_only_known_keys(text: &str, document: &impl Serialize) -> bool {
    match (serde_json::from_str(text), serde_json::to_value(document)) {
        (Ok(Value::Object(keys)), Ok(Value::Object(known))) => keys.keys().all(|key| known.contains_key(key)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Document {
        name: String,
        inner: Option<Box<Document>>,
    }

    fn document(name: &str) -> Document {
        let inner = Some(Box::new(Document { name: "sha256".into(), inner: None }));
        Document { name: name.into(), inner }
    }

    #[test]
    fn a_seal_is_the_digest_of_what_stands_before_its_comma() {
        let digest = checksum::sha256(r#"{"name":"a","inner":{"name":"sha256","inner":null}"#);
        let text = format!(r#"{{"name":"a","inner":{{"name":"sha256","inner":null}},"sha256":"{digest}"}}"#) + "\n";
        assert_eq!(String::from_utf8(line(&document("a"))).unwrap(), text);
    }

    #[test]
    fn a_document_without_a_seal_has_no_key_that_is_not_known() {
        assert!(open::<Document>(br#"{"name":"a","inner":null}"#).is_ok());
        assert!(open::<Document>(br#"{"name":"a","inner":null,"other":1}"#).is_err());
        assert!(open::<Document>(br#"{"name":"a","inner":null,"sha256":"x"}"#).is_err());
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_with_any_other_byte_it_does_not(
            name in any::<String>(), is_pretty: bool, at: prop::sample::Index, bit in 0..8_u32
        ) {
            let document = document(&name);
            let mut text = if is_pretty { pretty(&document) } else { line(&document) };
            prop_assert_eq!(open(&text), Ok(document));
            let place = at.index(text.len());
            text[place] ^= 1 << bit;
            prop_assert!(open::<Document>(&text).is_err(), "{}", String::from_utf8_lossy(&text));
        }
    }
}
