//! XMP: a little XML, of which we write and read one property, `unwrong:request`.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::metadata::Found;
use super::png::REQUEST;

const PROPERTY: &str = "unwrong:request";
const BEFORE: &str = concat!(
    "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>",
    r#"<x:xmpmeta xmlns:x="adobe:ns:meta/">"#,
    r#"<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">"#,
    r#"<rdf:Description rdf:about="" xmlns:unwrong="urn:unwrong:1">"#,
    "<unwrong:request>",
);
const AFTER: &str = concat!(
    "</unwrong:request>",
    r#"</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>"#,
);

/// A packet with `json` as its only property; the JSON is ASCII in it, as `\u` escapes.
pub(super) fn write(json: &str) -> String {
    let mut packet = BEFORE.to_owned();
    for char in json.chars() {
        match char {
            '&' => packet.push_str("&amp;"),
            '<' => packet.push_str("&lt;"),
            '>' => packet.push_str("&gt;"),
            ' '..='~' => packet.push(char),
            // JSON has such characters only inside strings, where an escape says the same.
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    write!(packet, "\\u{unit:04x}").expect("a string takes any text");
                }
            }
        }
    }
    packet + AFTER
}

/// Finds the property as an element or, as some programs rewrite it, as an attribute.
pub(super) fn read(packet: &str, found: &mut Found) {
    if let Some(json) = element(packet).or_else(|| attribute(packet)) {
        found.text(REQUEST, unescape(json));
    }
}

fn element(packet: &str) -> Option<&str> {
    let (_, rest) = packet.split_once(&format!("<{PROPERTY}>"))?;
    Some(rest.split_once(&format!("</{PROPERTY}>"))?.0)
}

fn attribute(packet: &str) -> Option<&str> {
    let (_, rest) = packet.split_once(&format!("{PROPERTY}="))?;
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    Some(rest[1..].split_once(quote)?.0)
}

/// The five named entities and the numbered ones; anything else stays as it is.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let entity = after.split_once(';').and_then(|(name, after)| Some((entity(name)?, after)));
        let (char, after) = entity.unwrap_or(('&', after));
        plain.push(char);
        rest = after;
    }
    plain.push_str(rest);
    plain
}

fn entity(name: &str) -> Option<char> {
    let number = |digits: &str, radix| u32::from_str_radix(digits, radix).ok();
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let digits = name.strip_prefix('#')?;
            let code = match digits.strip_prefix(['x', 'X']) {
                Some(hex) => number(hex, 16)?,
                None => number(digits, 10)?,
            };
            char::from_u32(code)
        }
    }
}

/// Bytes of a packet as text; XMP in JPEG and WebP is UTF-8.
pub(super) fn decode(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
