//! The set of wrong pictures: complete, repeatable, and the same after any interruption.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Run, SMALL, command, unwrong};

/// Six pictures of the smallest kind.
const SET: [&str; 6] =
    ["wrongs", "--keywords", "blurry,bad hands,ugly", "--guidance-scales", "8,13", "-o"];

fn arguments<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&SET[..], &[name], &SMALL, more].concat()
}

fn wrongs(folder: &Path, name: &str, more: &[&str]) -> Run {
    unwrong(folder, &arguments(name, more))
}

/// Names and bytes of all files.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect()
}

#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (files(one), files(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    for (name, bytes) in &one {
        assert!(*bytes == other[name], "{name} differs");
    }
}

fn rows(folder: &Path) -> Vec<Value> {
    let table = fs::read_to_string(folder.join("metadata.jsonl")).unwrap();
    table.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_folder_is_an_imagefolder_that_says_how_it_was_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let run = wrongs(folder.path(), "set", &["--seed", "7", "--weight", "1.5"]).done();
    assert_eq!(run.stdout.lines().count(), 6, "{}", run.stdout);
    let set = folder.path().join("set");
    let names: Vec<String> = (0..6).map(|index| format!("{index:03}.png")).collect();
    let found = files(&set);
    assert_eq!(found.len(), 7, "{:?}", found.keys());
    let rows = rows(&set);
    for ((index, row), name) in rows.iter().enumerate().zip(&names) {
        assert!(found.contains_key(name));
        assert_eq!((&row["file_name"], &row["text"]), (&name.as_str().into(), &"wrong".into()));
        let request = &row["unwrong"]["request"];
        assert_eq!(request["seed"], 7 + index);
        assert_eq!(request["guidance_scale"], [8.0, 13.0][index % 2]);
        assert_eq!(request["high_noise_fraction"], 0.8, "base and refiner");
        assert!(request.get("negative_prompt").is_none() && request.get("wrong").is_none());
    }
    assert_eq!(rows[2]["unwrong"]["request"]["prompt"], "blurry, (bad hands)1.5, ugly");

    // A picture of the set is an ordinary picture.
    let again = ["generate", "--from", "set/003.png", "-o", "again.png"];
    unwrong(folder.path(), &again).done();
    assert!(fs::read(folder.path().join("again.png")).unwrap() == found["003.png"]);
}

#[test]
fn a_finished_folder_is_left_alone_and_more_of_each_go_on() {
    let folder = tempfile::tempdir().unwrap();
    wrongs(folder.path(), "set", &["--seed", "1"]).done();
    let before = files(&folder.path().join("set"));
    let run = wrongs(folder.path(), "set", &[]).done();
    assert_eq!(run.stdout, "");
    assert!(run.stderr.contains("6 of 6 pictures are there"), "{}", run.stderr);
    assert_eq!(files(&folder.path().join("set")), before);

    let more = wrongs(folder.path(), "set", &["--count", "2"]).done();
    assert_eq!(more.stdout.lines().count(), 6);
    wrongs(folder.path(), "at-once", &["--seed", "1", "--count", "2"]).done();
    assert_same(&folder.path().join("set"), &folder.path().join("at-once"));
}

#[test]
fn whatever_is_lost_is_drawn_again_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    wrongs(folder.path(), "whole", &["--seed", "3"]).done();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    fs::create_dir(&broken).unwrap();
    for (name, bytes) in files(&whole) {
        fs::write(broken.join(name), bytes).unwrap();
    }
    // A picture is gone, the table lacks its last line, and a file was being written.
    fs::remove_file(broken.join("000.png")).unwrap();
    let table = fs::read_to_string(broken.join("metadata.jsonl")).unwrap();
    let short: String = table.lines().take(5).flat_map(|line| [line, "\n"]).collect();
    fs::write(broken.join("metadata.jsonl"), short).unwrap();
    fs::write(broken.join(".unwrong-a1b2c3.part"), "half a pict").unwrap();

    let run = wrongs(folder.path(), "broken", &[]).done();
    assert_eq!(run.stdout.replace('\\', "/"), "broken/000.png\n");
    assert_same(&broken, &whole);
}

fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "png")
}

/// Starts a set and waits until some of its pictures are there.
fn begin(folder: &Path, name: &str, pictures: usize) -> Child {
    let mut child = command(folder, &arguments(name, &["--seed", "5", "--count", "4"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (set, started) = (folder.join(name), Instant::now());
    let count = || {
        fs::read_dir(&set).map_or(0, |entries| {
            entries.filter(|entry| is_picture(&entry.as_ref().unwrap().path())).count()
        })
    };
    while count() < pictures {
        assert!(started.elapsed() < Duration::from_mins(2), "it draws nothing");
        assert!(child.try_wait().unwrap().is_none(), "it is done already");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[cfg(unix)]
#[test]
fn a_killed_set_goes_on_and_ends_as_one_that_was_never_killed() {
    let folder = tempfile::tempdir().unwrap();
    let all = ["--seed", "5", "--count", "4"];
    wrongs(folder.path(), "whole", &all).done();
    for pictures in [1, 3, 8] {
        let mut child = begin(folder.path(), "killed", pictures);
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
    }
    let killed = folder.path().join("killed");
    let before = files(&killed);
    let run = wrongs(folder.path(), "killed", &all).done();
    let there = before.keys().filter(|name| is_picture(Path::new(name)));
    assert_eq!(run.stdout.lines().count(), 24 - there.count(), "{}", run.stderr);
    assert_same(&killed, &folder.path().join("whole"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_set_says_so_and_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = begin(folder.path(), "set", 2);
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let set = folder.path().join("set");
    let names = files(&set);
    assert!(names.keys().all(|name| !name.starts_with('.')), "{:?}", names.keys());
    assert_eq!(rows(&set).len(), names.len() - 1, "a row for each picture");
}

#[test]
fn a_folder_of_other_settings_is_refused_by_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    wrongs(folder.path(), "set", &["--seed", "2"]).done();
    let before = files(&folder.path().join("set"));
    for (more, difference) in [
        (&["--seed", "3"][..], "`000.png` has `seed` `2` instead of `3`"),
        (&["--noise", "torch-cuda"], "`000.png` has `noise` nothing instead of `torch-cuda`"),
        (&["--text", "bad"], "line 1 of `metadata.jsonl` has `text` `wrong` instead of `bad`"),
        (&["--weight", "++"], "`000.png` has `prompt` `(blurry)++++, bad hands, ugly`"),
        (&["--refiner", "none"], "`refiner` nothing instead of `none`"),
    ] {
        let run = wrongs(folder.path(), "set", more);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
        assert!(run.stderr.contains("`set` was begun with other settings: "), "{}", run.stderr);
        assert!(run.stderr.contains(difference), "{}", run.stderr);
        assert_eq!(files(&folder.path().join("set")), before);
    }
    let fewer = ["wrongs", "--keywords", "blurry,bad hands,ugly", "-o", "set"];
    let fewer = [&fewer[..], &["--guidance-scale", "8"], &SMALL[..]].concat();
    let run = unwrong(folder.path(), &fewer);
    assert!(run.stderr.contains("beyond 3 pictures") || run.stderr.contains("`001.png` has"));

    // Nothing is deleted, not even with `--force`.
    let fewer = [&fewer[..], &["--force", "--seed", "2"]].concat();
    let run = unwrong(folder.path(), &fewer);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("beyond 3 pictures"), "{}", run.stderr);
    assert_eq!(files(&folder.path().join("set")), before);
    for name in ["003.png", "004.png", "005.png"] {
        fs::remove_file(folder.path().join("set").join(name)).unwrap();
    }
    unwrong(folder.path(), &fewer).done();
    let set = files(&folder.path().join("set"));
    assert_eq!(set.len(), 4, "{:?}", set.keys());
    assert!(set["000.png"] == before["000.png"], "what did not differ was kept");
}

#[test]
fn wrong_sets_are_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("empty.txt"), "\n\n").unwrap();
    for (more, word) in [
        (&["--keywords", "nowhere.txt"][..], "nowhere.txt"),
        (&["--keywords", "empty.txt"], "0 pictures"),
        (&["--weight", "heavy"], "`heavy`"),
        (&["--count", "0"], "0 pictures"),
        (&["--guidance-scales", "8,NaN"], "guidance_scale"),
        (&["--size", "60x64"], "width"),
    ] {
        let run = unwrong(folder.path(), &[&["wrongs", "-o", "set"], more].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{more:?} {}", run.stderr);
        assert!(run.stderr.contains(word), "{}", run.stderr);
        assert!(!folder.path().join("set").exists());
    }
}

#[test]
fn keywords_come_from_a_file_with_one_on_each_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("words.txt"), "too dark\n\n  tilted \n").unwrap();
    let line = ["wrongs", "--keywords", "words.txt", "--guidance-scales", "9", "-o", "set"];
    unwrong(folder.path(), &[&line[..], &["--text", "bad"], &SMALL[..]].concat()).done();
    let rows = rows(&folder.path().join("set"));
    let prompts = rows.iter().map(|row| row["unwrong"]["request"]["prompt"].as_str().unwrap());
    assert_eq!(prompts.collect::<Vec<_>>(), ["(too dark)++++, tilted", "too dark, (tilted)++++"]);
    assert!(rows.iter().all(|row| row["text"] == "bad"));
}

#[test]
fn a_folder_of_other_things_is_left_alone_without_force() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set");
    for (name, bytes) in [
        ("notes.txt", "precious"),
        ("cat.png", "a cat"),
        ("metadata.jsonl", "{\"file_name\": \"cat.png\", \"text\": \"a cat\"}\n"),
    ] {
        fs::create_dir(&set).unwrap();
        fs::write(set.join(name), bytes).unwrap();
        let run = wrongs(folder.path(), "set", &["--seed", "1"]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{}", run.stderr);
        let error = format!("`set` holds `{name}` and no set of wrong pictures");
        assert!(run.stderr.contains(&error) && run.stderr.contains("--force"), "{}", run.stderr);
        assert_eq!(files(&set).len(), 1);
        fs::remove_dir_all(&set).unwrap();
    }
    fs::create_dir(&set).unwrap();
    fs::write(set.join("notes.txt"), "precious").unwrap();
    let first = wrongs(folder.path(), "set", &["--seed", "1", "--force"]).done();
    assert!(first.stderr.contains("\n2 of 6: seed 2, "), "{}", first.stderr);
    assert_eq!(files(&set)["notes.txt"], b"precious");
    // It is a set now.
    wrongs(folder.path(), "set", &["--seed", "1"]).done();
}
