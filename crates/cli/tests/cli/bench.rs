//! `unwrong bench`.

use crate::unwrong;

#[test]
fn every_row_has_its_seconds_and_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        "unet",
        "refiner-unet",
        "vae-decode",
        "vae-encode",
        "text-encoders",
        "training",
        "first-step",
        "picture",
    ];
    for row in rows {
        let run = unwrong(folder.path(), &["bench", row, "--size", "64x64", "--json"]).done();
        let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!((json["row"].as_str(), json["model"].as_str()), (Some(row), Some("demo")));
        assert!(json["seconds"].as_f64().unwrap() > 0.0, "{json}");
        assert!(json["threads"].as_u64().unwrap() > 0, "{json}");
        assert!(!json["level"].as_str().unwrap().is_empty(), "{json}");
        let known = cfg!(target_os = "linux");
        for peak in ["peak_anonymous_bytes", "peak_resident_bytes"] {
            assert_eq!(json[peak].as_u64().is_some_and(|bytes| bytes > 0), known, "{peak}: {json}");
        }
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn of_several_runs_the_median_counts() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["bench", "vae-decode", "--size", "64x64", "--runs", "3", "--json"];
    let run = unwrong(folder.path(), &arguments).done();
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let mut runs: Vec<f64> =
        json["runs"].as_array().unwrap().iter().map(|seconds| seconds.as_f64().unwrap()).collect();
    runs.sort_by(f64::total_cmp);
    assert_eq!((runs.len(), json["seconds"].as_f64()), (3, Some(runs[1])));
}

#[test]
fn people_get_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = unwrong(folder.path(), &["bench", "unet", "--size", "64x96"]).done();
    assert!(run.stdout.starts_with("unet 64x96, batch 2: "), "{}", run.stdout);
    assert_eq!((run.stdout.lines().count(), run.stderr.as_str()), (1, ""));
}
