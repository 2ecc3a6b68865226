//! Files that are not what their names say: refused by name, never a panic.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Run, unwrong};

/// The demo model on disk, as a user has a model.
fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/model")
}

/// Runs `generate` with one file that cannot be right.
#[track_caller]
fn refused(folder: &Path, flag: &str, file: &str) -> String {
    let arguments = ["generate", "a cat", "-o", "cat.png", flag, file];
    let Run { code, stdout, stderr } = unwrong(folder, &arguments);
    assert!(matches!(code, Some(1 | 2)), "{code:?}: {stderr}");
    assert!(stderr.starts_with("error: ") || stderr.contains("\nerror: "), "{stderr}");
    assert!(stderr.contains(file.split(':').next().unwrap()), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(stdout, "");
    assert!(!folder.join("cat.png").exists());
    stderr
}

/// A safetensors file of one f32 tensor.
fn safetensors(name: &str, shape: [usize; 2], bytes: usize) -> Vec<u8> {
    let header = format!(
        r#"{{"{name}":{{"dtype":"F32","shape":[{},{}],"data_offsets":[0,{bytes}]}}}}"#,
        shape[0], shape[1]
    );
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + bytes, 0);
    file
}

#[test]
fn a_pickled_lora_is_read_and_one_that_runs_something_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let golden = demo().join("../../../parity/goldens/pickles/lora.bin");
    let shown = unwrong(folder.path(), &["lora", "inspect", golden.to_str().unwrap()]).done();
    assert!(shown.stdout.contains("tensors     2"), "{}", shown.stdout);

    fs::write(folder.path().join("pytorch_lora_weights.bin"), b"\x80\x02cos\nsystem\n.").unwrap();
    let stderr = refused(folder.path(), "--lora", "pytorch_lora_weights.bin");
    assert!(stderr.contains("it would run `os.system`"), "{stderr}");
    assert!(stderr.contains("hint: get a .safetensors of it"), "{stderr}");
}

#[test]
fn a_lora_of_another_family_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    // Stable Diffusion 1.5: its cross-attention reads 768 features, SDXL's another number.
    let key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k";
    let mut header = serde_json::Map::new();
    let (down, up) = (4 * 768 * 4, 320 * 4 * 4);
    for (part, shape, from, to) in [("down", [4, 768], 0, down), ("up", [320, 4], down, down + up)]
    {
        header.insert(
            format!("{key}.lora_{part}.weight"),
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [from, to]}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + down + up, 0);
    fs::write(folder.path().join("sd15.safetensors"), file).unwrap();
    refused(folder.path(), "--lora", "sd15.safetensors:0.5");
}

#[test]
fn a_truncated_lora_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = fs::read(demo().join("wrong-lora.safetensors")).unwrap();
    for length in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        fs::write(folder.path().join("short.safetensors"), &whole[..length]).unwrap();
        refused(folder.path(), "--lora", "short.safetensors");
    }
}

#[test]
fn a_file_that_lies_about_its_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("liar.safetensors");

    // A header of 2⁶² bytes in a file of sixteen.
    let mut file = (1u64 << 62).to_le_bytes().to_vec();
    file.extend([b'{'; 8]);
    fs::write(&path, file).unwrap();
    refused(folder.path(), "--lora", "liar.safetensors");

    // A tensor of 2⁶⁴ numbers, whose size overflows to nothing.
    fs::write(&path, safetensors("a.lora_down.weight", [1 << 32, 1 << 32], 0)).unwrap();
    refused(folder.path(), "--lora", "liar.safetensors");

    // A tensor larger than its bytes.
    fs::write(&path, safetensors("a.lora_down.weight", [1024, 1024], 16)).unwrap();
    refused(folder.path(), "--lora", "liar.safetensors");
}

#[test]
fn files_that_are_something_else_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("page.safetensors", &b"<!DOCTYPE html><html><body>404</body></html>"[..]),
        (
            "pointer.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        ),
        ("zip.safetensors", b"PK\x03\x04................................"),
    ] {
        fs::write(folder.path().join(name), bytes).unwrap();
        for flag in ["--lora", "--model", "--vae"] {
            refused(folder.path(), flag, name);
        }
    }
}

#[test]
fn a_model_folder_that_lacks_a_part_says_which() {
    let folder = tempfile::tempdir().unwrap();
    copy(&demo().join("base"), &folder.path().join("model"));
    fs::remove_file(folder.path().join("model/unet/config.json")).unwrap();
    let stderr = refused(folder.path(), "--model", "model");
    assert!(stderr.contains("unet"), "{stderr}");
}

#[test]
fn a_model_on_disk_draws_what_the_built_in_one_draws() {
    let folder = tempfile::tempdir().unwrap();
    let model = demo();
    for (name, model) in [("disk.png", model.to_str().unwrap()), ("built-in.png", "demo")] {
        let arguments = ["a cat", "--wrong", "--seed", "1", "--model", model, "-o", name];
        crate::generate(folder.path(), &arguments).done();
    }
    let picture = |name| crate::pictures::read(&folder.path().join(name));
    assert!(picture("disk.png") == picture("built-in.png"), "the pixels differ");
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
