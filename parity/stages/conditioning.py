"""Weighted prompts: compel's parse, chunks and embeddings; and both encoders layer by layer."""

import contextlib
import io

import torch
from compel import Compel, CompelForSDXL, ReturnedEmbeddingsType
from compel.prompt_parser import Blend, CrossAttentionControlSubstitute, FlattenedPrompt

from .golden import Goldens

SENTENCE = "a red apple on a wooden table next to a blue vase with yellow flowers, soft light"
LONG = ", ".join(
    f"a {colour} {thing}"
    for colour in ["red", "blue", "green", "purple"]
    for thing in ["apple", "star", "house", "little fish", "tree", "boat"]
)
SENTENCES = " ".join(
    f"The {colour} {thing} stands on the hill." for colour in ["red", "blue", "green"] for thing in ["house", "tree", "cat", "dog"]
)
NO_STOPS = " ".join(["apple", "pear", "plum", "fig"] * 25)

# name: (prompt, negative prompt or None, whether every value is kept)
PROMPTS = {
    "plain": ("a red apple", None, True),
    "method": ("a red apple, (flat)++", "wrong", True),
    "empty": ("", None, True),
    "both_empty": ("", "", False),
    "spaces": ("   ", "wrong", False),
    "plus_one": ("a red+ apple", None, False),
    "plus_two": ("a red++ apple", None, False),
    "plus_many": ("a red apple+++++++", None, False),
    "minus_one": ("a red- apple", None, True),
    "minus_three": ("a red apple---", None, False),
    "group_plus": ("a (red apple)+++ on a table", None, False),
    "group_minus": ("a (red apple)-- on a table", None, False),
    "number": ("a (red apple)1.3 on a table", None, True),
    "number_small": ("a (red apple)0.5 on a table", None, True),
    "number_integer": ("a (red apple)2 on a table", None, False),
    "number_one": ("a (red apple)1.0 on a table", None, False),
    "number_zero": ("a (red apple)0 on a table", None, False),
    "number_zero_point": ("a (red apple)0.0 on a table", None, False),
    "number_negative": ("a (red apple)-0.5 on a table", None, False),
    "number_tiny": ("a (red apple)0.01 on a table", None, False),
    "number_leading_point": ("a (red apple).5 on a table", None, False),
    "number_trailing_point": ("a (red apple)1. on a table", None, False),
    "number_exponent": ("a (red apple)1e1 on a table", None, False),
    "number_plus_sign": ("a (red apple)+1.2 on a table", None, False),
    "cottage": ("(A lovely beach-side cottage in the southern seas)0.5", None, False),
    "village": ("village+, close view, middle age,fantasy++ style", None, False),
    "keyword": ("(low quality)++++, bad hands, random text, error", None, False),
    "two_down": ("a (red)0.5 apple on a (wooden)0.3 table", None, True),
    "three_down": ("a red- apple, a (yellow)0.7 star and (a blue fish)0.2", None, False),
    "up_and_down": ("a (red)1.5 apple, a (yellow)0.5 star", "wrong+, (ugly)0.8", False),
    "nested": ("a (red (shiny)+ apple)+ on a table", None, False),
    "nested_numbers": ("a (red (shiny)1.2 apple)1.1 on a (wooden (old)0.5 table)0.9", None, False),
    "nested_deep": ("((((apple)+)+)+)+ pie", None, False),
    "nested_cancel": ("a ((red)+)- apple", None, False),
    "attend": ("a red.attend(1.3) apple and (blue fish).attend(++)", None, False),
    "adjacent": ("a (red)1.3(apple)0.7", None, False),
    "same_weight_fuses": ("red+ apple+ and (blue)+ (fish)+", None, False),
    "repeated_words": ("red red (red)0.5 red apple (red)1.3", None, False),
    "whole_down": ("(a red apple)0.4", None, False),
    "whole_up": ("(a red apple)1.4", None, False),
    "quotes": ('"a red apple"++ on a table', None, False),
    "quotes_plain": ('a "red apple" on a table', None, False),
    "quotes_inside": ('a ("red" apple)+ on a table', None, False),
    "quote_single": ("the cat's (red ball)+ isn't here", None, False),
    "quote_open": ('a "red apple', None, False),
    "escaped_parens": (r"a red apple \(fruit\) on a table", None, False),
    "escaped_in_group": (r"a (red \(dark\) apple)+ on a table", None, False),
    "escaped_plus": (r"a red\+ apple, c\+\+", None, False),
    "escaped_quote": (r"a \"red\" apple", None, False),
    "backslash": (r"a red \ apple \n b", None, False),
    "parens_plain": ("a (red apple) on a table", None, False),
    "parens_empty": ("a () red apple", None, False),
    "parens_empty_up": ("a ()++ red apple", None, False),
    "parens_empty_down": ("a ( )0.5 red apple", None, False),
    "parens_open": ("a (red apple on a table", None, False),
    "parens_open_up": ("a ((red apple)++ on a table", None, False),
    "parens_open_then_plus": ("a (red apple+ on a blue+ table", None, False),
    "parens_close_then_plus": ("a red+) apple+ table", None, False),
    "parens_close": ("a red apple) on a table", None, False),
    "parens_many": ("((a)) (((red))) apple", None, False),
    "space_before_plus": ("a red ++ apple", None, False),
    "space_before_number": ("a (red apple) 1.3 on a table", None, False),
    "plus_alone": ("+ a ++ red - apple --", None, False),
    "plus_inside": ("a++b c+d e-f g--h", None, False),
    "hyphens": ("old-fashioned state-of-the-art rock-n-roll", None, False),
    "minus_before": ("-red --blue apple", None, False),
    "mixed_signs": ("red+- apple-+ star++--", None, False),
    "number_on_word": ("a red1.3 apple2 word0.5", None, False),
    "colon_weight": ("a (red:1.3) apple, (blue fish:0.5)", None, False),
    "brackets": ("a [red] apple, [from:to:0.5], [a|b]", None, False),
    "braces": ("a {red|blue} apple", None, False),
    "lora_tag": ("a red apple <lora:wrong:0.8>", None, False),
    "commas": ("red,apple,,star , fish,", None, False),
    "comma_in_group": ("a (red, shiny, round)1.2 apple,fish", None, False),
    "comma_after": ("a (red)+, (blue)-, apple+,", None, False),
    "period_after": ("a red+. An apple++. (A star)-.", None, False),
    "period_number": ("version 1.5 of 2.0 apples", None, False),
    "exclamation": ("a red+ apple! wow!! (no!)0.5", None, False),
    "unicode": ("(日本の猫)+ résumé- 😀++", None, False),
    "newlines": ("a red+\napple\n\n(on a\ntable)1.2", None, False),
    "upper": ("A RED+ Apple", None, False),
    "equals": ("a=b c+=d (e=f)+", None, False),
    "slash": ("red/blue+ apple", None, False),
    "percent": ("100%+ cotton (50%)-", None, False),
    "underscore": ("foo_bar+ (a_b c_d)0.8", None, False),
    "entities": ("salt &amp; pepper+", None, False),
    "eos_inside": ("a <|endoftext|> b+", None, False),
    "keyword_text": ("blend and swap with attend", None, False),
    "seventy_five": (" ".join(["apple"] * 75), None, False),
    "seventy_six": (" ".join(["apple"] * 76), None, False),
    "long": (LONG, "wrong", True),
    "long_weighted": (f"({LONG})1.2, a (yellow)0.6 star, fish++", "wrong", False),
    "long_down_across": (f"{SENTENCE}, ({LONG})0.7", None, False),
    "long_sentences": (SENTENCES, "wrong, (ugly)1.3", False),
    "long_no_stops": (NO_STOPS, None, False),
    "long_one_word": ("q" * 200, None, False),
    "long_three": (f"{LONG}, {SENTENCES} (and a red apple)1.3", "wrong", False),
    "long_negative": ("a red apple", LONG, False),
    "long_second_longer": ("apple! " * 10 + "wow!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!", None, False),
    "long_both": (f"({LONG})0.8", f"{SENTENCES} (ugly)0.5", False),
    "blend": ('("a red apple", "a yellow star").blend(0.7, 0.3)', None, False),
    "blend_no_normalize": ('("a red apple", "a yellow star").blend(1, -0.5, no_normalize)', None, False),
    "and": ('("a red apple", "a yellow star").and()', "wrong", False),
    "and_weights": ('("a red apple", "a (yellow)1.3 star").and(0.5, 0.8)', None, False),
    "swap": ("a cat.swap(dog) on a table", None, False),
    "with_lora": ("a red apple withLora(wrong, 0.8)", None, False),
}

WHOLE_LAYERS = {"plain": "a red apple", "sentence": SENTENCE}


def describe(conjunction):
    """compel's parse as plain data."""

    def fragments(prompt):
        rows = []
        for child in prompt.children:
            if isinstance(child, CrossAttentionControlSubstitute):
                rows.append({"original": [[x.text, x.weight] for x in child.original], "edited": [[x.text, x.weight] for x in child.edited]})
            else:
                rows.append([child.text, child.weight])
        return rows

    first = conjunction.prompts[0] if conjunction.prompts else None
    if len(conjunction.prompts) == 1 and isinstance(first, FlattenedPrompt) and conjunction.weights == [1.0] and not conjunction.lora_weights:
        kind = "swap" if first.wants_cross_attention_control else "plain"
        return kind, {"fragments": fragments(first)}
    if isinstance(first, Blend):
        return "blend", {"prompts": [fragments(x) for x in first.prompts], "weights": first.weights, "normalize": first.normalize_weights}
    if conjunction.lora_weights:
        return "lora", {"prompts": [fragments(x) for x in conjunction.prompts], "loras": [[x.model, x.weight] for x in conjunction.lora_weights]}
    return "and", {"prompts": [fragments(x) for x in conjunction.prompts], "weights": conjunction.weights}


def chunks(provider, parts):
    """The ids of every chunk, as compel cuts them."""
    texts = [text for text, _ in parts["fragments"]]
    weights = [weight for _, weight in parts["fragments"]]
    ids, per_token, _ = provider.get_token_ids_and_expand_weights(texts, weights, device="cpu")
    size = provider.max_token_count
    return (
        [ids[i : i + size].tolist() for i in range(0, len(ids), size)],
        [per_token[i : i + size].tolist() for i in range(0, len(ids), size)],
    )


def refiner_compel(pipe, textual_inversion_manager=None):
    """The refiner's compel: the second encoder alone, as the 2023 notebooks build it."""
    return Compel(
        tokenizer=pipe.tokenizer_2,
        text_encoder=pipe.text_encoder_2,
        returned_embeddings_type=ReturnedEmbeddingsType.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED,
        requires_pooled=True,
        truncate_long_prompts=False,
        textual_inversion_manager=textual_inversion_manager,
    )


def refiner_conditioning(compel, prompt, negative):
    """Embeddings and pooled vectors for both prompts, padded to the same length."""
    embeds, pooled = compel(prompt)
    negative_embeds, negative_pooled = compel(negative)
    embeds, negative_embeds = compel.pad_conditioning_tensors_to_same_length([embeds, negative_embeds])
    return embeds, pooled, negative_embeds, negative_pooled


@torch.no_grad()
def write(pipe, folder):
    """conditioning.{json,safetensors} and encoders.{json,safetensors}"""
    compel = CompelForSDXL(pipe)
    refiner = refiner_compel(pipe)
    goldens = Goldens(folder, "conditioning")
    rows = {}
    for name, (prompt, negative, whole) in PROMPTS.items():
        row = {"prompt": prompt, "negative_prompt": negative}
        rows[name] = row
        for field, text in (("", prompt), ("negative_", negative)):
            if text is None:
                continue
            try:
                kind, parts = describe(Compel.parse_prompt_string(text))
            except Exception as error:
                row[field + "error"] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            row[field + "kind"] = kind
            row[field + "parse"] = parts
            if kind == "plain":
                pair = [chunks(one.conditioning_provider, parts) for one in (compel.compel_1, compel.compel_2)]
                row[field + "chunks"] = [x[0] for x in pair]
                row[field + "weights"] = pair[0][1]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                out = compel(prompt, negative_prompt=negative)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        row["tokens"] = out.embeds.shape[1]
        goldens.add(f"{name}.prompt_embeds", out.embeds, whole)
        goldens.add(f"{name}.pooled_embeds", out.pooled_embeds)
        if negative is not None:
            goldens.add(f"{name}.negative_prompt_embeds", out.negative_embeds, whole and out.negative_embeds.shape[1] == 77)
            goldens.add(f"{name}.negative_pooled_embeds", out.negative_pooled_embeds)
            embeds, pooled, negative_embeds, negative_pooled = refiner_conditioning(refiner, prompt, negative)
            goldens.add(f"{name}.refiner.prompt_embeds", embeds)
            goldens.add(f"{name}.refiner.pooled_embeds", pooled)
            goldens.add(f"{name}.refiner.negative_prompt_embeds", negative_embeds)
            goldens.add(f"{name}.refiner.negative_pooled_embeds", negative_pooled)
    goldens.facts["prompts"] = rows
    goldens.write()
    write_encoders(pipe, folder)


def write_encoders(pipe, folder):
    """Every layer of both encoders, for two plain prompts."""
    goldens = Goldens(folder, "encoders", prompts={name: {"text": text} for name, text in WHOLE_LAYERS.items()})
    for name, text in WHOLE_LAYERS.items():
        for part, tokenizer, encoder in (
            ("text_encoder", pipe.tokenizer, pipe.text_encoder),
            ("text_encoder_2", pipe.tokenizer_2, pipe.text_encoder_2),
        ):
            ids = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
            goldens.facts["prompts"][name][part] = ids[0].tolist()
            out = encoder(ids, output_hidden_states=True)
            for layer, hidden in enumerate(out.hidden_states):
                goldens.add(f"{name}.{part}.hidden_states.{layer}", hidden)
            goldens.add(f"{name}.{part}.last_hidden_state", out.last_hidden_state)
            if part == "text_encoder_2":
                goldens.add(f"{name}.{part}.text_embeds", out.text_embeds)
    goldens.write()
