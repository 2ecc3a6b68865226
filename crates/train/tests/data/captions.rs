//! Which words go with a picture.

use unwrong_train::data::{DataOptions, Dataset};

use crate::support::{Folder, options, png};

fn captions(dataset: &Dataset) -> Vec<&str> {
    dataset.items().iter().map(|item| item.caption.as_str()).collect()
}

fn without_caption() -> DataOptions {
    DataOptions { caption: None, ..options() }
}

fn pictures() -> Folder {
    let folder = Folder::new();
    for (seed, name) in ["a.png", "b.png", "c.png"].iter().enumerate() {
        folder.write(name, &png(64, 64, seed as u32));
    }
    folder
}

#[test]
fn a_file_beside_wins_over_metadata_and_that_over_the_one_for_all() {
    let folder = pictures();
    folder.write("a.txt", "\u{feff}  a cat \r\n".as_bytes());
    folder.write(
        "metadata.jsonl",
        b"{\"file_name\": \"a.png\", \"text\": \"a dog\"}\n\n\
          {\"file_name\": \"./b.png\", \"text\": \"a bird\", \"score\": 1}\n",
    );
    let (dataset, notes) = folder.scan(&options());
    assert_eq!(captions(&dataset), ["a cat", "a bird", "wrong"]);
    assert_eq!(notes, ["`a.png` has another caption in `metadata.jsonl`; its own file is used"]);
}

#[test]
fn a_caption_is_the_first_line_with_text() {
    let folder = pictures();
    folder.write("a.txt", b"\n one \n two \n");
    folder.write("b.caption", b"three");
    folder.write("c.txt", b"four");
    folder.write("c.caption", b"five");
    let (dataset, notes) = folder.scan(&without_caption());
    assert_eq!(captions(&dataset), ["one", "three", "four"]);
    assert_eq!(notes, ["`a.txt` has 2 lines; the first is the caption"]);
}

#[test]
fn an_empty_caption_is_a_caption() {
    let folder = pictures();
    folder.write("a.txt", b"");
    let (dataset, notes) = folder.scan(&options());
    assert_eq!(captions(&dataset), ["", "wrong", "wrong"]);
    assert_eq!(notes, ["the caption of `a.png` is empty"]);
}

#[test]
fn what_no_text_encoder_reads_of_a_caption_is_said() {
    let folder = pictures();
    folder.write("a.txt", "cat ".repeat(75).as_bytes());
    folder.write("b.txt", "cat ".repeat(78).as_bytes());
    let (dataset, notes) = folder.scan(&options());
    assert_eq!(captions(&dataset)[1], "cat ".repeat(78).trim());
    let expected = "the caption of `b.png` is too long: its last 3 tokens are not trained on";
    assert_eq!(notes, [expected]);
}

#[test]
fn a_picture_without_a_caption_is_an_error_that_names_it() {
    let folder = pictures();
    folder.write("b.txt", b"a bird");
    assert_eq!(
        folder.refusal(&without_caption()),
        "`a.png` and 1 more picture have no caption, expected `a.txt` beside it, a line in \
         `metadata.jsonl`, or one caption for all"
    );
    folder.write("a.txt", b"a cat");
    assert!(folder.refusal(&without_caption()).starts_with("`c.png` has no caption, expected"));
}

#[test]
fn metadata_of_a_folder_within_wins() {
    let folder = Folder::new();
    folder.write("sub/a.png", &png(64, 64, 1));
    folder.write("sub/b.png", &png(64, 64, 2));
    folder.write(
        "metadata.jsonl",
        b"{\"file_name\": \"sub/a.png\", \"text\": \"above\"}\n\
          {\"file_name\": \"sub/b.png\", \"text\": \"above\"}",
    );
    folder.write("sub/metadata.jsonl", b"{\"file_name\": \"a.png\", \"text\": \"within\"}");
    let (dataset, notes) = folder.scan(&DataOptions { recursive: true, ..without_caption() });
    assert_eq!(captions(&dataset), ["within", "above"]);
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn captions_for_no_picture_and_unread_lists_are_noted() {
    let folder = pictures();
    let line = |name: &str| format!("{{\"file_name\": \"{name}\", \"text\": \"x\"}}\n");
    folder.write("metadata.jsonl", (line("x.png") + &line("y.png")).as_bytes());
    folder.write("metadata.csv", b"file_name,text\n");
    let (dataset, notes) = folder.scan(&options());
    assert_eq!(captions(&dataset), ["wrong"; 3]);
    assert_eq!(
        notes,
        [
            "`metadata.jsonl` has a caption for `x.png` and 1 more, of which there is no file",
            "`metadata.csv` is not read; captions come from `.txt` files or `metadata.jsonl`",
        ]
    );
}

#[test]
fn metadata_that_cannot_be_read_names_the_line() {
    let folder = pictures();
    let refusal = |text: &[u8]| {
        folder.write("metadata.jsonl", text);
        folder.refusal(&options())
    };
    let begins = "`metadata.jsonl` line 2 is not an object with `file_name`: ";
    for bad in ["{", "[]", "{\"text\": \"x\"}", "{\"file_name\": 1}", "nonsense"] {
        let said = refusal(format!("\n{bad}\n").as_bytes());
        assert!(said.starts_with(begins), "{said}");
    }
    // The line is said once, and a list is no object, whatever is in it.
    assert_eq!(
        refusal(b"{\"file_name\": \"a.png\"}\n{\"file_name\": 1}"),
        format!("{begins}invalid type: integer `1`, expected a string in column 15")
    );
    assert_eq!(
        refusal(b"\n[\"a.png\", \"a cat\"]"),
        format!("{begins}it begins with `[`, expected `{{`")
    );
    for name in ["", ".", "./.", "a.png/.."] {
        assert_eq!(
            refusal(format!("{{\"file_name\": \"{name}\", \"text\": \"x\"}}").as_bytes()),
            format!("`metadata.jsonl` line 1 names `{name}`, expected a file within the folder")
        );
    }
    assert_eq!(
        refusal(b"{\"file_name\": \"../a.png\", \"text\": \"x\"}"),
        "`metadata.jsonl` line 1 names `../a.png`, expected a file within the folder"
    );
    assert_eq!(
        refusal(
            b"{\"file_name\": \"a.png\", \"text\": \"x\"}\n{\"file_name\": \"a.png\", \"text\": \"y\"}"
        ),
        "`metadata.jsonl` line 2 gives `a.png` a second caption"
    );
    assert_eq!(refusal(b"\xff\xfe{"), "`metadata.jsonl` is not UTF-8 text");
}

#[test]
fn a_caption_file_that_is_none_is_refused() {
    let folder = pictures();
    folder.write("a.txt", &[0xff, 0xfe, b'a', 0]);
    assert_eq!(folder.refusal(&options()), "`a.txt` is not UTF-8 text");
    folder.write("a.txt", &vec![b'a'; 70_000]);
    assert_eq!(
        folder.refusal(&options()),
        "`a.txt` has 70000 bytes, expected a caption of at most 65536"
    );
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_captions_is_refused_and_nobody_waits_for_it() {
    for name in ["a.txt", "metadata.jsonl"] {
        let folder = pictures();
        let made = std::process::Command::new("mkfifo").arg(folder.path().join(name)).status();
        assert!(made.unwrap().success());
        assert_eq!(
            folder.refusal(&options()),
            format!("`{name}` is a device or a pipe, expected a text file")
        );
    }
}
