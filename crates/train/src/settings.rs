//! What a training is, as its checkpoints keep it, and how two of them differ.

use std::borrow::Cow;

use serde_json::Value;

/// The option of `unwrong train` that sets a field; the field where none does.
pub(crate) fn flag(field: &str) -> Cow<'_, str> {
    match field {
        "batch_size" => "--batch".into(),
        "caption" => "--trigger".into(),
        "kind" => "--optimizer".into(),
        "text_encoders" => "--train-text-encoders".into(),
        "attention" | "feed_forward" | "convolutions" | "embeddings" => {
            format!("--layers {}", field.replace('_', "-")).into()
        }
        "betas" | "eps" | "bucket_step" | "min_side" | "max_side" | "background" => field.into(),
        field => format!("--{}", field.replace('_', "-")).into(),
    }
}

/// The first thing in which settings differ, in words that name the option.
pub(crate) fn difference(found: &str, asked: &str) -> String {
    let [found, asked] =
        [found, asked].map(|text| serde_json::from_str::<Value>(text).unwrap_or_default());
    let differs = |key: &str| found[key] != asked[key];
    let (ours, theirs) = (&asked["class"], &found["class"]);
    if differs("model") {
        "it was begun with another model or VAE".to_owned()
    } else if let Some(option) =
        ["training", "data"].iter().find_map(|part| option(&found[*part], &asked[*part], &flag))
    {
        option
    } else if theirs.is_null() != ours.is_null() {
        let [before, now] = if theirs.is_null() { ["without", "some"] } else { ["with", "none"] };
        format!("it was begun {before} class pictures, now there are {now}")
    } else if let Some(option) = option(&theirs["data"], &ours["data"], &class_flag) {
        option
    } else if differs("pictures") {
        "it was begun with other pictures or captions".to_owned()
    } else if differs("class") {
        "it was begun with other class pictures or captions of these".to_owned()
    } else {
        "it was begun with other settings".to_owned()
    }
}

fn class_flag(field: &str) -> Cow<'_, str> {
    if field == "caption" { "--class-prompt".into() } else { flag(field) }
}

/// The first option that differs, also within others.
fn option(
    found: &Value,
    asked: &Value,
    flag: &dyn for<'a> Fn(&'a str) -> Cow<'a, str>,
) -> Option<String> {
    let keys = [asked, found].into_iter().filter_map(Value::as_object).flat_map(|all| all.keys());
    let mut differing = keys.filter(|key| found[key.as_str()] != asked[key.as_str()]);
    let key = differing.next()?;
    let (found, asked) = (&found[key.as_str()], &asked[key.as_str()]);
    if found.is_object() && asked.is_object() {
        return option(found, asked, flag);
    }
    let flag = flag(key);
    Some(match (given(key, found), given(key, asked)) {
        (Some(found), Some(asked)) => {
            format!("it was begun with `{flag}{found}`, now it is `{flag}{asked}`")
        }
        (Some(found), None) => format!("it was begun with `{flag}{found}`, now it is without"),
        (None, Some(asked)) => {
            format!("it was begun without `{flag}`, now it is `{flag}{asked}`")
        }
        (None, None) => format!("it was begun with another `{flag}`"),
    })
}

/// What follows the option; none where it was not given.
fn given(field: &str, value: &Value) -> Option<String> {
    match value {
        Value::Null if field == "max_grad_norm" => Some(" 0".to_owned()),
        Value::Null | Value::Bool(false) => None,
        Value::Bool(true) => Some(String::new()),
        value => Some(format!(" {value}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::TrainOptions;
    use crate::data::DataOptions;
    use crate::diffusion::LossOptions;

    fn settings(training: TrainOptions, data: &DataOptions, class: Option<&str>) -> String {
        let class = class.map(|caption| {
            let data = DataOptions { caption: Some(caption.to_owned()), ..data.clone() };
            json!({ "data": data, "pictures": ["a"] })
        });
        json!({ "model": "m", "training": training, "data": data, "class": class, "pictures": [] })
            .to_string()
    }

    #[test]
    fn settings_that_differ_are_named_as_their_options() {
        let (training, data) = (TrainOptions::default(), DataOptions::default());
        let before = settings(training, &data, None);
        let said =
            |training, data: &DataOptions| difference(&before, &settings(training, data, None));
        let of_data = |data: DataOptions| said(training, &data);
        assert_eq!(
            of_data(DataOptions { batch_size: 4, ..data.clone() }),
            "it was begun with `--batch 1`, now it is `--batch 4`"
        );
        assert_eq!(
            of_data(DataOptions { flip: true, ..data.clone() }),
            "it was begun without `--flip`, now it is `--flip`"
        );
        assert_eq!(
            of_data(DataOptions { caption: Some("a cat".to_owned()), ..data.clone() }),
            "it was begun without `--trigger`, now it is `--trigger \"a cat\"`"
        );
        assert_eq!(
            said(TrainOptions { max_grad_norm: None, ..training }, &data),
            "it was begun with `--max-grad-norm 1.0`, now it is `--max-grad-norm 0`"
        );
        let loss = LossOptions { snr_gamma: Some(5.0), ..training.loss };
        assert_eq!(
            said(TrainOptions { loss, ..training }, &data),
            "it was begun without `--snr-gamma`, now it is `--snr-gamma 5.0`"
        );
        let mut layers = training.layers;
        layers.attention = false;
        assert_eq!(
            said(TrainOptions { layers, ..training }, &data),
            "it was begun with `--layers attention`, now it is without"
        );
    }

    #[test]
    fn class_pictures_are_called_so() {
        let data = DataOptions::default();
        let with = |class| settings(TrainOptions::default(), &data, class);
        let (none, cat, dog) = (with(None), with(Some("a cat")), with(Some("a dog")));
        for (found, asked, said) in [
            (&none, &cat, "it was begun without class pictures, now there are some"),
            (&cat, &none, "it was begun with class pictures, now there are none"),
            (
                &cat,
                &dog,
                "it was begun with `--class-prompt \"a cat\"`, now it is `--class-prompt \"a dog\"`",
            ),
            (
                &cat,
                &cat.replace("[\"a\"]", "[\"b\"]"),
                "it was begun with other class pictures or captions of these",
            ),
        ] {
            assert_eq!(difference(found, asked), said);
        }
    }
}
