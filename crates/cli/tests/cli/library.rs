//! The README's lines for people who use the library.

use std::fs;
use std::path::Path;

use unwrong::picture::{self, Quality};
use unwrong::progress::Silent;
use unwrong::{Catalog, GenerateRequest, Generation, Options, Pipeline};

#[rustfmt::skip]
fn draw(path: &Path) -> unwrong::Result<()> {
    let request = GenerateRequest { seed: Some(7), ..GenerateRequest::new("a red apple") };
    let catalog = Catalog::new().with_builtin("demo", unwrong_demo::FILES);
    let pipeline = Pipeline::open(&request, &catalog, &Options::default())?;
    let pictures = pipeline.generate(&[request], &mut Silent)?;
    let Generation { pixels, embedded, .. } = &pictures[0];
    picture::write(path, pixels, embedded, Quality::default(), false)?;
    Ok(())
}

#[test]
fn the_lines_of_the_readme_draw_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("apple.png");
    draw(&path).unwrap();
    assert_eq!(crate::pictures::read(&path).size, (128, 128));
}

#[test]
fn the_lines_of_the_readme_are_the_ones_above() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let block = readme.split("```rust").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let lines: Vec<&str> =
        block.lines().skip(1).map(str::trim).filter(|line| line.starts_with("let ")).collect();
    assert!(lines.len() >= 5, "{block}");
    for line in lines {
        assert!(include_str!("library.rs").contains(line), "{line}");
    }
}
