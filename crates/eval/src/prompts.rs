//! The file of prompts: one a line.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use unwrong::{Error, Result};

use crate::wrong_request;

/// Largest accepted file; a prompt is at most a few kilobytes.
const MAX_BYTES: u64 = 16 << 20;

/// Reads prompts, one a line; blank lines and lines that start with `#` are skipped.
pub fn read(path: &Path) -> Result<Vec<String>> {
    let cannot = Error::reading(path, "a file with one prompt a line");
    let shown = path.display();
    // Asked before opening: opening a named pipe would wait for a writer.
    let about = fs::metadata(path).map_err(&cannot)?;
    if !about.is_file() {
        let found = if about.is_dir() { "a folder" } else { "a device or a pipe" };
        return Err(wrong_request(
            format!("`{shown}` is {found}, expected a file with one prompt a line"),
            "name a text file with `--prompts`",
        ));
    }
    if about.len() > MAX_BYTES {
        return Err(wrong_request(
            format!("`{shown}` has {} bytes, expected at most {MAX_BYTES}", about.len()),
            "is it the right file? `--prompts` takes one prompt a line",
        ));
    }
    let bytes = fs::read(path).map_err(&cannot)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count();
        wrong_request(
            format!("`{shown}` is not UTF-8 in line {line}"),
            "save it as UTF-8 text, one prompt a line",
        )
    })?;
    parse(text).map_err(|problem| {
        wrong_request(
            format!("`{shown}` {problem}"),
            "write one prompt a line; blank lines and lines with `#` in front are skipped",
        )
    })
}

/// The prompts in a text; the error goes on after the file's name.
fn parse(text: &str) -> Result<Vec<String>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut prompts, mut lines) = (Vec::new(), HashMap::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if line.contains('\0') {
            return Err(format!("holds a NUL in line {}, expected text", number + 1));
        }
        // The same pair twice would count as two.
        if let Some(first) = lines.insert(line, number + 1) {
            return Err(format!("repeats in line {} the prompt of line {first}", number + 1));
        }
        prompts.push(line.to_owned());
    }
    if prompts.is_empty() {
        return Err("holds no prompt".to_owned());
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn comments_blank_lines_and_line_ends_are_no_prompts() {
        let text = "\u{feff}# icons\r\na red apple\r\n\r\n  a #1 mug  \n\t# more\na cat";
        assert_eq!(parse(text).unwrap(), ["a red apple", "a #1 mug", "a cat"]);
    }

    #[test]
    fn what_is_no_list_of_prompts_says_why() {
        for (text, why) in [
            ("", "holds no prompt"),
            ("# one\n\n", "holds no prompt"),
            ("a cat\n# more\na cat \n", "repeats in line 3 the prompt of line 1"),
            ("a\0cat", "holds a NUL in line 1"),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.contains(why), "{problem}");
        }
    }

    #[test]
    fn a_file_that_is_not_utf_8_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        fs::write(&path, b"a cat\na caf\xe9\n").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().ends_with("is not UTF-8 in line 2"), "{error}");
        assert!(error.is_request_error() && error.hint().is_some());
        assert!(read(folder.path()).unwrap_err().to_string().contains("is a folder"));
        assert!(read(&folder.path().join("none")).unwrap_err().is_request_error());
    }
}
