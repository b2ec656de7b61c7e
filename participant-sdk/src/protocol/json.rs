//! Comparing JSON: equal is what differs only in white space, the order of members and the spelling of strings.
//!
//! Numbers are compared as they are written: 1 and 1.0 differ, and no digit is lost to floating point.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// The one text that all JSON texts equal to this one share. None when it isn't JSON, is nested deeper than
/// [`MAX_JSON_DEPTH`](super::MAX_JSON_DEPTH), or an object in it has a member twice.
///
/// ```
/// use unanimous_sdk::protocol::canonical_json;
/// assert_eq!(canonical_json(r#"{"b": [1, 2], "a": "\u00e9"}"#), canonical_json(r#"{"a":"é","b":[1,2]}"#));
/// assert_ne!(canonical_json("1"), canonical_json("1.0"));
/// assert_eq!(canonical_json("{"), None);
/// ```
pub fn canonical_json(text: &str) -> Option<String> {
    if json_depth_exceeds(text.as_bytes(), super::MAX_JSON_DEPTH) {
        return None;
    }
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    let mut out = String::with_capacity(text.len());
    write(raw, &mut out)?;
    Some(out)
}

fn write(raw: &RawValue, out: &mut String) -> Option<()> {
    let text = raw.get();
    match text.as_bytes().first()? {
        b'{' => {
            let Members(members) = serde_json::from_str(text).ok()?;
            out.push('{');
            for (i, (name, value)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::to_string(name).ok()?);
                out.push(':');
                write(value, out)?;
            }
            out.push('}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            out.push('[');
            for (i, item) in items.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        b'"' => {
            let string: String = serde_json::from_str(text).ok()?;
            out.push_str(&serde_json::to_string(&string).ok()?);
        }
        _ => out.push_str(text),
    }
    Some(())
}

/// An object's members in order of their names; a name twice is an error.
struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom("a member stands twice"));
                    }
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Visitor)
    }
}

/// Whether arrays and objects are nested deeper than `most`, found without parsing: one pass, no recursion.
pub fn json_depth_exceeds(text: &[u8], most: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > most {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}
