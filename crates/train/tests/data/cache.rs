//! What was computed once is kept, and never trusted blindly.

use std::fs;

use unwrong_train::Error;
use unwrong_train::data::{Array, Cache, DataOptions, Entry, Framing, Key};

use crate::support::{Folder, options, png};

fn entry() -> Entry {
    let values = vec![0.0, -0.0, 1.5, f32::MIN_POSITIVE, -3.25e-30, f32::MAX];
    let mean = Array { shape: vec![1, 2, 3], values };
    let std = Array { shape: vec![2], values: vec![1.0, f32::INFINITY] };
    Entry::from([("mean".to_owned(), mean), ("std".to_owned(), std)])
}

fn unexpected() -> Result<Entry, Error> {
    panic!("it was kept")
}

#[test]
fn an_entry_is_computed_once_and_comes_back_bit_for_bit() {
    let folder = Folder::new();
    let key = Key::new(&["latents", "a"]);
    let cache = Cache::open(&folder.path().join("new/deep")).unwrap();
    assert_eq!(cache.get(&key), None);
    assert_eq!(cache.get_or(&key, || Ok(entry())).unwrap(), entry());
    let again = Cache::open(&folder.path().join("new/deep")).unwrap();
    let kept = again.get_or(&key, unexpected).unwrap();
    let bits = |entry: &Entry| -> Vec<u32> {
        entry.values().flat_map(|array| &array.values).map(|value| value.to_bits()).collect()
    };
    assert_eq!(bits(&kept), bits(&entry()));
    assert_eq!(kept, entry());
    assert_eq!(again.get(&Key::new(&["latents", "b"])), None);
}

#[test]
fn a_failed_computation_leaves_nothing() {
    let folder = Folder::new();
    let cache = Cache::open(folder.path()).unwrap();
    let key = Key::new(&["x"]);
    let failed = cache.get_or(&key, || Err(Error::Changed { path: "a.png".into() }));
    assert!(failed.is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_damaged_entry_is_computed_again() {
    let folder = Folder::new();
    let cache = Cache::open(folder.path()).unwrap();
    let key = Key::new(&["latents", "a"]);
    cache.get_or(&key, || Ok(entry())).unwrap();
    let path = cache.path(&key);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(cache.get(&key), None, "cut to {length} bytes");
    }
    for place in 0..whole.len() {
        for bit in [0, 3, 7] {
            let mut damaged = whole.clone();
            damaged[place] ^= 1 << bit;
            fs::write(&path, &damaged).unwrap();
            // A changed name of the checksum is damage, too; a space in the padding is not.
            let kept = cache.get(&key);
            assert!(kept.is_none() || kept == Some(entry()), "byte {place}, bit {bit}");
        }
    }
    fs::write(&path, b"").unwrap();
    assert_eq!(cache.get_or(&key, || Ok(entry())).unwrap(), entry());
    assert_eq!(fs::read(&path).unwrap(), whole, "the damaged file was replaced");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn keys_of_different_parts_differ() {
    let keys = [
        Key::new(&["a", "bc"]),
        Key::new(&["ab", "c"]),
        Key::new(&["abc"]),
        Key::new(&["abc", ""]),
        Key::of_caption("wrong", "x"),
        Key::of_caption("wrong", "y"),
        Key::of_caption("", "wrongx"),
    ];
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key), "{index}");
    }
}

#[test]
fn the_key_of_latents_follows_from_all_that_decides_them() {
    let folder = Folder::with(&[("a.png", png(90, 64, 1)), ("b.png", png(90, 64, 2))]);
    let key = |options: &DataOptions, place, vae| {
        let (dataset, _) = folder.scan(options);
        dataset.example(place, 0, 0).latents_key(vae)
    };
    let first = key(&options(), 0, "vae");
    let renamed = Folder::with(&[("z.png", png(90, 64, 1))]);
    let (dataset, _) = renamed.scan(&options());
    assert_eq!(dataset.example(0, 9, 0).latents_key("vae"), first, "the name decides nothing");
    assert_ne!(key(&options(), 1, "vae"), first);
    assert_ne!(key(&options(), 0, "another"), first);
    let square = DataOptions { framing: Framing::Square, ..options() };
    assert_ne!(key(&square, 0, "vae"), first);
    let black = DataOptions { background: [0; 3], ..options() };
    assert_ne!(key(&black, 0, "vae"), first);
    let (dataset, _) = folder.scan(&options());
    let mut example = dataset.example(0, 0, 0);
    example.flip = true;
    assert_ne!(example.latents_key("vae"), first);
    let mut example = dataset.example(0, 0, 0);
    example.crop.left += 1;
    assert_ne!(example.latents_key("vae"), first);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let folder = Folder::new();
    let file = folder.write("file", b"");
    let error = Cache::open(&file).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot create `{}`", file.display()));
}
