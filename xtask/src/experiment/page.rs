//! The page: what was asked, what was done, what came out.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::data::{Run, Test};
use super::verdict::{CLAIMS, RULES, Verdict};

/// What the commands' presets have, by the setting, and what it is.
const PRESETS: [(&str, &str, &str); 5] = [
    ("wrong-scales", "8,9,10,11,12,13", "guidance scale of the wrong pictures"),
    ("wrong-count", "1", "wrong pictures of a keyword and scale"),
    ("rank", "4", "rank"),
    ("train-steps", "500", "steps of the training"),
    ("rate", "1e-4", "learning rate"),
];
/// Comparisons that have a table of their own.
const TABLES: [(&str, &[&str]); 4] = [
    ("none", &["both", "word", "lora", "keywords"]),
    ("word", &["both"]),
    ("keywords", &["both"]),
    ("both", &["not-wrong", "others"]),
];

/// `docs/experiment.md`.
pub(super) fn page(run: &Run, tuned: bool) -> Result<String> {
    let mut text = String::from("# The experiment\n\n");
    if run.is_quick() {
        text += "**This is a run with tiny numbers, to show that it runs: no measurement.**\n\n";
    }
    text += &asked(run, tuned);
    text += &done(run);
    text += &verdicts(run)?;
    text += &pictures(run);
    text += &means(run);
    text += &effects(run);
    text += &following(run)?;
    text += &training(run)?;
    text += LIMITS;
    Ok(text)
}

fn asked(run: &Run, tuned: bool) -> String {
    let primary = run.setting("primary");
    format!(
        "The wrong-LoRA method, from nothing to a verdict: the embedded demo model draws the wrong \
         pictures, a LoRA is trained on them, and the method is compared with no negative prompt, \
         with the word alone, and with a plain list of negative words. Written by\n\n\
         ```text\ncargo xtask experiment\n```\n\n\
         from the numbers of that run; nothing here is typed by hand. {}.\n\n\
         ## Asked beforehand\n\n\
         Hypothesis: with the method (`both`: wrong-LoRA, and `wrong` as the negative prompt) pictures \
         have more **{primary}** than without any negative prompt (`none`), same prompt and seed; and \
         the LoRA has a part in it, so `both` has more of it than `word`, the same negative prompt \
         without the LoRA. {}\n\n\
         Why this metric: the author claims sharper, more vivid pictures. In a first experiment \
         with an earlier demo model the untrained word alone raised colour and saturation as much \
         as the method did, and what the LoRA added to the word was sharpness. Edges by Sobel's \
         kernels are less moved by noise than a Laplacian, and the estimated noise stands beside \
         them. Metric, prompts, rules and settings were fixed before the pictures of this page \
         were drawn; {}.{}\n\n",
        run.machine(),
        "The metrics are described in [eval.md](eval.md).",
        if tuned {
            "settings were chosen on other prompts ([experiment-tuning.md](experiment-tuning.md))"
        } else {
            "the settings were not tuned"
        },
        departures(run),
    )
}

/// What is set other than the presets of `unwrong wrongs` and `unwrong train` have it.
fn departures(run: &Run) -> String {
    let other = PRESETS.iter().filter(|(key, preset, _)| run.setting(key) != *preset);
    let other: Vec<String> = other
        .map(|(key, preset, what)| format!("{what} {} ({preset})", run.setting(key)))
        .collect();
    if other.is_empty() {
        return " They are the presets of each command.".to_owned();
    }
    format!(
        " Other than the presets of the commands, which are in brackets: {}; the reason is in \
         [method.md](method.md#does-it-work).",
        other.join(", ")
    )
}

fn done(run: &Run) -> String {
    let (mut rows, mut lines) = (String::new(), String::new());
    let mut total = 0.0;
    for stage in run.stages() {
        total += stage.seconds;
        row(&mut rows, &[stage.name.to_owned(), time(stage.seconds)]);
        // The others differ from the first in the baseline only.
        if !stage.name.starts_with("comparing with") {
            lines += &command(&stage.command);
            lines.push('\n');
        }
    }
    row(&mut rows, &["**all of it**".to_owned(), format!("**{}**", time(total))]);
    let mut variants = String::new();
    for (name, _) in &run.means {
        row(&mut variants, &[format!("`{name}`"), about(name).to_owned()]);
    }
    format!(
        "## Done\n\n\
         {} wrong pictures; a LoRA of {} bytes; {} prompts, none of which any wrong picture was \
         drawn from or settings were tried on, with the seeds {}, at guidance scale {}, {} steps, \
         base and refiner, in {} variants: {} pictures.\n\n\
         | stage | time |\n|---|---|\n{rows}\n```text\n{lines}```\n\n\
         | variant | what it is |\n|---|---|\n{variants}\n",
        run.number("wrong_pictures"),
        run.number("lora_bytes"),
        run.prompts.len(),
        run.setting("seeds"),
        run.setting("guidance-scale"),
        run.setting("draw-steps"),
        run.means.len(),
        run.means.len() * run.pictures,
    )
}

fn about(variant: &str) -> &'static str {
    match variant {
        "none" => "no negative prompt, no LoRA",
        "word" => "negative prompt `wrong`, no LoRA",
        "lora" => "the wrong-LoRA, no negative prompt",
        "both" => "the method: the wrong-LoRA, negative prompt `wrong`",
        "keywords" => "the method's 13 keywords as the negative prompt, no LoRA",
        "not-wrong" => "the method, and `, not wrong` behind the prompt",
        "others" => "the method, with `wrong, (blurry)++` as the negative prompt",
        name if name.starts_with("none-") => "as `none`, at the published guidance scale",
        name if name.starts_with("both-") => "as `both`, at the published guidance scale",
        _ => "",
    }
}

fn verdicts(run: &Run) -> Result<String> {
    let primary = run.setting("primary");
    let mut rows = String::new();
    let mut said = Vec::new();
    for (place, claim) in CLAIMS.iter().enumerate() {
        let metric = claim.metric.unwrap_or(primary);
        let (test, verdict) = Verdict::of_claim(run, claim, metric)
            .with_context(|| format!("no numbers of `{}`", claim.variant))?;
        let strong = if place < 2 { "**" } else { "" };
        row(
            &mut rows,
            &[
                claim.text.to_owned(),
                format!("`{}` − `{}`", claim.variant, claim.baseline),
                metric.replace('_', " "),
                with_share(&test, run.mean(claim.baseline, metric)),
                interval(&test),
                percent(test.improved),
                probability(test.p_holm),
                format!("{strong}{}{strong}", verdict.words()),
            ],
        );
        said.push(verdict);
    }
    Ok(format!(
        "## Verdicts\n\n{}\n\n\
         | claim | compared | metric | mean difference | 95 % interval | prompts improved | p, Holm | verdict |\n\
         |---|---|---|---|---|---|---|---|\n{rows}\n\
         The rules, for every row alike:\n\n{RULES}\n\
         One observation is a prompt: the mean of its seeds, because seeds of one prompt are not \
         independent. Interval: bootstrap over prompts; p: Wilcoxon's signed-rank test, with Holm's \
         correction over the metrics of one comparison, not over the rows of this table. The first \
         row is the hypothesis and the second its other half; the others are exploration.\n\n",
        summary(primary, &said),
    ))
}

/// The verdicts of hypothesis, LoRA, cards and object in words.
fn summary(primary: &str, said: &[Verdict]) -> String {
    let words = |place: usize| said.get(place).map_or("not measured", |verdict| verdict.words());
    let holds = |place: usize| said.get(place) == Some(&Verdict::Improved);
    let rose = |place: usize| holds(place) || said.get(place) == Some(&Verdict::ImprovedWithNoise);
    let hypothesis = match (holds(0), holds(1)) {
        (false, _) | (_, false) if rose(0) && rose(1) => {
            "Both differences are there, but by the rules below they are not shown to be \
             sharpness: the estimated noise rose, too."
        }
        (true, true) => "The hypothesis holds in both halves on this model.",
        (true, false) => {
            "The first half of the hypothesis holds on this model, the second does not: what the \
             method gains cannot be laid to the LoRA."
        }
        (false, true) => {
            "The hypothesis does not hold on this model: against no negative prompt the method is \
             not shown to gain cleanly, though the LoRA adds to the word."
        }
        (false, false) => "The hypothesis does not hold on this model.",
    };
    format!(
        "**{hypothesis}** {primary}, the method against no negative prompt: {}; the LoRA's own part: \
         {}; against the 13 keywords: {}. `not wrong` in the prompt: {}; another weighted negative \
         word: {}. The object still there: {} against no negative prompt, {} against the word alone.",
        words(0),
        words(1),
        words(3),
        words(6),
        words(7),
        words(8),
        words(9),
    )
}

fn pictures(run: &Run) -> String {
    let variants: Vec<String> = run.means.iter().map(|(name, _)| format!("`{name}`")).collect();
    let shown = run.prompts.len().min(8);
    let prompts: Vec<&str> =
        (0..shown).map(|place| run.prompts[place * run.prompts.len() / shown].as_str()).collect();
    format!(
        "## Look at them\n\n![pictures of {shown} prompts in every variant](experiment.webp)\n\n\
         From left to right: {}. From top to bottom, evenly from the list and not chosen, first seed: \
         {}.\n\n",
        variants.join(", "),
        prompts.join("; "),
    )
}

/// Means of every metric for every variant.
fn means(run: &Run) -> String {
    let Some((_, first)) = run.means.first() else { return String::new() };
    let metrics: Vec<&String> = first.keys().collect();
    let mut text = String::from("## Means\n\n| variant |");
    for metric in &metrics {
        write!(text, " {} |", metric.replace('_', " ")).expect("a String takes every write");
    }
    text += "\n|---|";
    text += &"---|".repeat(metrics.len());
    text.push('\n');
    for (variant, means) in &run.means {
        let values = metrics.iter().map(|metric| number(means[*metric]));
        let cells: Vec<String> = std::iter::once(format!("`{variant}`")).chain(values).collect();
        row(&mut text, &cells);
    }
    text + "\n"
}

/// Every metric of the comparisons that matter.
fn effects(run: &Run) -> String {
    let mut text = String::from("## Effects\n\n");
    let mut table = |variant: &str, baseline: &str| {
        let tests = run.tests(variant, baseline);
        if tests.is_empty() {
            return;
        }
        writeln!(
            text,
            "`{variant}` − `{baseline}`, {} prompts:\n\n| metric | mean difference | 95 % interval \
             | prompts improved | p, Holm | |\n|---|---|---|---|---|---|",
            tests[0].count
        )
        .expect("a String takes every write");
        for test in &tests {
            let arrow = if test.sign > 0.0 { "↑" } else { "↓" };
            row(
                &mut text,
                &[
                    format!("{} {arrow}", test.metric.replace('_', " ")),
                    with_share(test, run.mean(baseline, &test.metric)),
                    interval(test),
                    percent(test.improved),
                    probability(test.p_holm),
                    Verdict::of(test).words().to_owned(),
                ],
            );
        }
        text.push('\n');
    };
    for (baseline, variants) in TABLES {
        for variant in variants {
            table(variant, baseline);
        }
    }
    let high = run.setting("high-guidance");
    table(&format!("both-{high}"), &format!("none-{high}"));
    text
}

fn following(run: &Run) -> Result<String> {
    let captions: f64 = run.setting("follow").parse().context("`follow` is a number")?;
    let mut rows = String::new();
    for (variant, means) in &run.means {
        let test = run.test(variant, "none", "follows");
        let apart = |of: fn(&Test) -> String| test.as_ref().map_or_else(String::new, of);
        row(
            &mut rows,
            &[
                format!("`{variant}`"),
                tenths(means["follows"]),
                number(means["follow_margin"]),
                apart(|test| format!("{:+.1} points", 100.0 * test.mean).replace('-', "−")),
                apart(|test| {
                    format!("{:+.1} to {:+.1}", 100.0 * test.low, 100.0 * test.high)
                        .replace('-', "−")
                }),
                apart(|test| probability(test.p_holm)),
            ],
        );
    }
    let right = run.mean("none", "follows").unwrap_or_default();
    let ceiling = match right {
        1.0.. => {
            "Without any negative prompt all are right: a loss would show, a gain could not.\n\n"
        }
        0.99.. => {
            "Without any negative prompt nearly all are right: a loss would show, a gain hardly.\n\n"
        }
        _ => "",
    };
    Ok(format!(
        "## Is the object still there?\n\n\
         The demo model as a classifier: noise of {} levels is added to a picture, the same for \
         every caption, and the base, without LoRA and guidance, predicts it under the picture's \
         prompt and under {} other prompts of the list. Right is where the loss is lowest under the \
         picture's own prompt; by chance {}.\n\n\
         | variant | right | margin, % of the loss | to `none` | 95 % interval | p, Holm |\n\
         |---|---|---|---|---|---|\n{rows}\n{ceiling}\
         It shows whether the named object can be told from the others, by the model that drew it. \
         It shows no quality, no details, and nothing that this model never learned; a style \
         that suits the judge raises the margin.\n\n",
        run.setting("follow-levels"),
        captions - 1.0,
        percent(1.0 / captions),
    ))
}

fn training(run: &Run) -> Result<String> {
    let stages = run.stages();
    let stage = stages.iter().find(|stage| stage.name == "training").context("no training")?;
    let steps: f64 = run.setting("train-steps").parse().context("`train-steps` is a number")?;
    let step = stage.seconds / steps;
    let [one, four] = [1, 4].map(|batch| run.bench(batch));
    let [one, four] = [one.context("no timing")?, four.context("no timing")?];
    Ok(format!(
        "## Training\n\n\
         {steps} steps of four pictures took {}: {:.2} steps a second, {:.1} pictures a second, start, \
         latents of the pictures and checkpoints included. The gradients of four pictures at once take \
         {:.1} ms (`unwrong bench training --batch 4`, rank 4), {} of a step's {:.1} ms. Those of one \
         take {:.1} ms, so four at once are {} of four times one: {}.\n\n",
        time(stage.seconds),
        1.0 / step,
        4.0 / step,
        1e3 * four,
        percent(four / step),
        1e3 * step,
        1e3 * one,
        percent(four / (4.0 * one)),
        if four < 3.2 * one {
            "pictures that come alone are bound by what every call costs, not by arithmetic"
        } else {
            "a step is bound by the work itself, not by what every call costs"
        },
    ))
}

const LIMITS: &str = "\
## What this does not show

- The demo model draws one emoji-like object of 128 × 128 pixels. What holds for it need not hold
  for SDXL, whose wrong pictures go wrong in other ways.
- One training, one seed of it, one set of wrong pictures: another training may differ.
- The metrics count edges, colour and noise. They see no hands, textures or taste; look above.
- The same prompts serve every comparison, and Holm's correction is within a comparison only.
";

/// `a | b |`
fn row(text: &mut String, cells: &[String]) {
    writeln!(text, "| {} |", cells.join(" | ")).expect("a String takes every write");
}

/// As one would type it; texts with spaces in quotes.
fn command(words: &[&str]) -> String {
    let quoted = |word: &&str| {
        if word.contains([' ', '(', '\\']) { format!("\"{word}\"") } else { (*word).to_owned() }
    };
    let words: Vec<String> = words.iter().map(quoted).collect();
    format!("unwrong {}", words.join(" "))
}

fn time(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let seconds = seconds.round() as u64;
    format!("{} min {} s", seconds / 60, seconds % 60)
}

/// Four digits that count.
pub(super) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let before = value.abs().log10().floor() as i32 + 1;
    let decimals = (4 - before).clamp(0, 9) as usize;
    format!("{value:.decimals$}").replace('-', "−")
}

fn difference(value: f64) -> String {
    if value > 0.0 { format!("+{}", number(value)) } else { number(value) }
}

/// The difference, and its share of the baseline's mean.
pub(super) fn with_share(test: &Test, base: Option<f64>) -> String {
    let share = base.filter(|base| base.abs() > 1e-9).map(|base| 100.0 * test.mean / base);
    match share {
        Some(share) => format!("{} ({:+.1} %)", difference(test.mean), share).replace('-', "−"),
        None => difference(test.mean),
    }
}

fn interval(test: &Test) -> String {
    format!("{} to {}", difference(test.low), difference(test.high))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn tenths(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn probability(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([1234.5, 0.01234, -2.5].map(number), ["1234", "0.01234", "−2.500"]);
        assert_eq!([59.94, 60.0, 754.6].map(time), ["59.9 s", "1 min 0 s", "12 min 35 s"]);
        assert_eq!(
            command(&["eval", "--variant", "others:wrong=1,negative-prompt=(blurry)++"]),
            "unwrong eval --variant \"others:wrong=1,negative-prompt=(blurry)++\""
        );
    }

    #[test]
    fn a_hypothesis_of_two_halves_needs_both() {
        use Verdict::{Improved, ImprovedWithNoise, NoEffectShown};
        let with = |first, second| summary("tenengrad", &[first, second]);
        assert!(with(Improved, Improved).contains("holds in both halves"));
        assert!(with(Improved, NoEffectShown).contains("cannot be laid to the LoRA"));
        assert!(with(ImprovedWithNoise, Improved).contains("not shown to be sharpness"));
        assert!(with(ImprovedWithNoise, NoEffectShown).contains("does not hold"));
        assert!(with(NoEffectShown, NoEffectShown).contains("does not hold"));
    }
}
