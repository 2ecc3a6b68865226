"""Writes goldens/prompt-fragments.json and goldens/prompt-parts.json: what compel reads in prompts.

    python parity/make_prompts.py [--out parity/goldens] [--check PROGRAM --count N --seed S]

`prompt-fragments.json` has `[text, fragments]` of texts that are one prompt, `prompt-parts.json`
`{text, parts, loras}` of texts that join, swap or name networks: a part is `[weight, normalize,
[[weight, fragments, edited]...]]`, `edited` is null without swaps, a fragment `[text, weight]`.

With `--check` it compares N random texts of each kind, and N of a small alphabet, with
`target/release/examples/plan` instead (built by
`cargo build --release -p unwrong-prompt --example plan`) and writes nothing.

A text that compel refuses has `null` for fragments or parts. One that takes compel more than two
seconds is left out.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

CHOSEN = [
    "",
    " ",
    "a cat",
    "village+, close view, middle age,fantasy++ style",
    "(A lovely beach-side cottage in the southern seas)0.5",
    "a red apple, (flat)++",
    "(k)++++",
    "a ((nested)+ group)1.3, (of (three (levels)-)-)-",
    "(a b)++ c-- (d)0",
    "word---, more----",
    '"quoted words"++ and "plain"',
    '"a (group) in quotes"1.2',
    '("quotes" in a group)1.2',
    '"escaped \\" quote"+',
    '"no end',
    'end"',
    "\\(not a group\\) \\\"not quoted\\\" \\+ \\- \\= \\, \\.",
    "\\\\\\\\(backslashes\\\\\\\\)",
    "(escaped \\) inside)1.4",
    "(unclosed group",
    "unopened group)++",
    "((red apple)++ and (more)++",
    "(a - b)++",
    "(a = b)++",
    "(a \\= b)++",
    "(1.5 apples, 2.0 pears.)1.1",
    "(x)1. (x).5 (x)1.25. (x)-1 (x)+1.2 (x)2+",
    "a++b--c",
    "x-y -z +z well-known 5-3",
    "C++, c--, a+-b, a-+b",
    "apple.attend(1.5) (big apple).attend(++) \"q\".attend ( - )",
    "apple.attend(x) apple.attend(1.5 apple.attend()",
    "(a, b, (c, d)+)+",
    "a,b,,c,,,d ,e",
    "()",
    "()++ \"\"- a",
    "a \"\" b",
    "[a:b:0.5] (x:1.3) <lora:name:0.8> BREAK one AND two {a|b} __file__",
    "tab\there\nline\r\nend",
    "(line\nbreak)+",
    "\"line\nbreak\"+",
    "nbsp\u00a0between\u3000words",
    "r\u00e9sum\u00e9+ (\u65e5\u672c\u8a9e)1.2 \U0001f600++",
    ":-) ;-( ^^ --",
    "+ - ++ -- = .",
    "(((((a)+)+)+)+)+",
    "a+ b+ c++ d++ e",
    "(two words)1.1 same+",
]

JOINED = [
    '("a", "b").and()',
    '("a", "b").and(0.5, 0.5)',
    '("prompt part 1", "prompt part 2").and(0.5, 0.5)',
    '("taylor swift wearing blue jeans","emma watson wearing shorts").and()',
    '("a", "b", "c").add(1, -0.5, 2.)',
    '("a", "b").and(0.5, 0.5) and more words',
    '("a", "b").and(1)',
    '("a", "b").and(x, y)',
    '("a"\n, "b" ) .and ( 1 , 2 )',
    '("a"++, "b").and()',
    "(cat, dog).and()",
    "(a cat, dog).and()",
    "((a cat)+, dog).and()",
    "((a cat++ c), dog-x).and()",
    '((), "b").and(1, 2)',
    "(()).and()",
    '("", "b").and()',
    '("a =", "b - c").and()',
    '("a \\"quoted\\" word", "\\(b\\)").and()',
    '("(a, b)0.4 c-", "d++").and(1, 0.8)',
    '("a b", "c d").blend()',
    '("a b", "c d").blend(0.7, 0.3)',
    '("a b", "c d").blend(0.7, 0.3, no_normalize)',
    '("a b", "c d").blend(no_normalize)',
    '("a b", "c d").blend(2, -0.5)',
    '("a b", (c d), e).blend(0.7,0.3,1)',
    '("a", "b").blend(1, 1) and more',
    'more ("a", "b").blend(1, 1)',
    '("a", "b").blend(1)',
    '("a", "b").blend(1, 2, 3)',
    '((), "b").blend(1, 2)',
    '("(a)0.5 b+", "c (d)-").blend(1, 3)',
    '("a", ("b", "c").blend(1, 1)).and()',
    '("a", "(\\"b\\", \\"c\\").blend(1, 1)").and()',
    '(("a", "b").and(), "c").blend()',
    "a cat.swap(dog) on a mat",
    "a cat .swap ( dog ) on a mat",
    '(a cat.swap("dog x"))0.5 on a mat',
    '"a cat".swap("a big dog", s_start=0.1, shape_freedom=0.5) x',
    "(a cat).swap(dog, 0.3, t_end = word)",
    "(a (big)0.3 cat).swap((small)0.3 dog)++",
    "a cat.swap() and ().swap(dog)",
    "cat.swap(a, b) cat.swap(a. b) cat.swap(a = b)",
    "(cat.swap(a, b. c)) (cat.swap(a = b)) d",
    "(a.swap(b)).swap(c)",
    "a.swap(b.swap(c))",
    '("a cat.swap(dog)", "b").and(1, 0.5)',
    '("a cat.swap(dog)", "b").blend()',
    "withLora(x, 0.5) a cat",
    "a (b useLora(y_2-z) c)++ d withLora(z, -1)",
    "a withLora(x 0.5) withLora(a.b) useLora(, 1) xwithLora(c)",
    "withLora(x)",
    'withLora(x) ("a", "b").blend() useLora(y, 2)',
    'withLora(x) ("a", "b").and()',
    '("a withLora(x)", "b").and() withLora(y)',
    '("\u65e5\u672c\u8a9e r\u00e9sum\u00e9", "\U0001f600 \u0442\u0435\u0441\u0442").and(1.5, 0.5)',
    '("a", "b").and',
    '("a", "b").and(',
    '("a", "b".and()',
    '("a, "b").blend()',
    '("a", "b",).blend()',
    '("a", "b").blend(1e5, 2)',
    '("a", "b").and(+1, 2)',
    ".and() .blend(1, 2) .swap(x)",
]

WORDS = (
    ["a", "red", "apple", "x-y", "+5", "-3", "1.5", "don't", "C++", "\u00e9", "\u65e5\u672c", "--"]
    + ["=", "a=b", "!", "!!!", "wow!", ":-)", "a,b", ",,", ",", ".", ", ", " ", "  ", "\n", "\t"]
    + [".attend(", "attend", "\\", "\\(", "\\)", '\\"', "\\+", "\\\\(", "+", "++", "-", "---"]
    + ["1.3", "0.5", "2", ".5", "1.", "(", ")", "((", "))", '"', "(a b)", "(a b)++", '"q r"']
    + ['"q (r)+"-', ".attend(++)", ".attend(1.2)", ".attend ( - )", "[a:b:0.5]", "(x:1.3)"]
    + ["<lora:foo:1>", "BREAK", "AND", "{a|b}", "\u00a0", "\u2003", "\x1c", "\u2026", "\u2014"]
    + ["word", "()", '""', "\\t", "\\n", "\\-", "\\=", "\\,", "\\."]
)
WEIGHTS = ["", "+", "--", "1.3", "0.7", ".attend(1.2)", ".attend( ++ )", " ++", "1.", ".5", "-1"]


def random_prompt(draw, depth=0):
    parts = []
    for _ in range(draw.randint(1, 7)):
        if depth < 2 and draw.random() < 0.2:
            start, end = draw.choice([("(", ")"), ("(", ")"), ('"', '"'), ("(", "")])
            parts.append(start + random_prompt(draw, depth + 1) + end + draw.choice(WEIGHTS))
        else:
            parts.append(draw.choice(WORDS) + draw.choice(["", "", "", "+", "-", "++"]))
        parts.append(draw.choice([" ", " ", "", ", ", ","]))
    return "".join(parts)


LETTERS = list('()"\\\\.,+-= ab12ab  ') + ["\n", "\\\"", "\\(", "\\)", '", "', '("', '")', '"']
LETTERS += [".and(", ".blend(", ".swap(", ".swap(", ".add(", ".attend(", "withLora(", "useLora("]
LETTERS += ["no_normalize", ").and()", ").blend(1, 2)", '("a", "b").blend(', '("a b", b).and(']


def random_letters(draw):
    """A text of a small alphabet, in which much nearly fits."""
    while True:
        text = "".join(draw.choice(LETTERS) for _ in range(draw.randint(1, 24)))
        if text.count("(") <= 8:
            return text


def random_swap(draw):
    def some():
        return draw.choice(["cat", "(a b)", '"a, b"', "x-y", "(a b+)", "()", '""', "(cat)1.2"])

    end = draw.choice([")"] * 5 + [", s_start=0.1)", ", x, t_end = 0.5)", ",)", ", =)", "", " ="])
    inside = draw.choice(["dog", "a dog", "(a dog)++", '"a, dog"', "", "a, b", "a. b", "(a, b)0.3"])
    if draw.random() < 0.15:
        inside = random_swap(draw)
    return f"{some()}{draw.choice(['', ' '])}.swap{draw.choice(['', ' '])}({inside}{end}"


def random_lora(draw):
    end = draw.choice([")", ")", ", 0.5)", ",-1 )", ", x)", " ,+.5)", ""])
    return draw.choice(["withLora(", "useLora (", "withLora( "]) + draw.choice(["a", "b_c-1"]) + end


def random_piece(draw):
    draws = [random_swap, random_lora, lambda _: draw.choice(WORDS), lambda _: "a red apple"]
    draws += [lambda _: draw.choice(["(a b)0.5", "c++", "(d e)-", "(f)1.3", "\u00e9", "\u65e5\u672c"])]
    return draw.choices(draws, [2, 1, 2, 3, 3])[0](draw)


def random_joined(draw):
    """A text that joins prompts, or nearly."""
    pieces = [[random_piece(draw) for _ in range(draw.randint(1, 3))] for _ in range(draw.randint(1, 3))]
    texts = [" ".join(own) for own in pieces]
    if draw.random() < 0.3:
        return draw.choice(["", "(", '"']) + texts[0] + draw.choice(["", ")0.5", '"++', ") a"])
    quotes = [('"', '"')] * 9 + [("(", ")")]
    texts = [
        f"{left}{own if draw.random() < 0.1 else own.replace(left, '')}{right}"
        for own in texts
        for left, right in [draw.choice(quotes)]
    ]
    operator = draw.choice([".and", ".and", ".add", " .and", ".blend", ".blend", ".blend "])
    numbers = draw.choice([len(texts)] * 9 + [0, 0, 0, 1, 2])
    weights = ["1", "0.5", "2", "-1", ".3", "1.", "+0.2", "-0.25", "0"]
    options = [draw.choice(weights) for _ in range(numbers)]
    options += draw.choice([[]] * 9 + [["no_normalize"]] * 3 + [["x"], ["a=1"]])
    before = draw.choice([""] * 12 + ["withLora(a) ", " ", "a "])
    behind = draw.choice([""] * 12 + [" useLora(b, 0.3)", " ", " more", ", more", "++"])
    return f"{before}({', '.join(texts)}){operator}({','.join(options)}){behind}"


def random_prompts(seed, count):
    draw = random.Random(seed)
    prompts = []
    while len(prompts) < count:
        prompt = random_prompt(draw)
        if prompt.count("(") + prompt.count('"') / 2 <= 7:
            prompts.append(prompt)
    return prompts


class TooSlow(Exception):
    pass


def give_up(*_):
    raise TooSlow


def fragments_of(children, edited):
    """`[text, weight]` of each fragment, on one side of every swap."""
    from compel.prompt_parser import CrossAttentionControlSubstitute

    fragments = []
    for child in children:
        if isinstance(child, CrossAttentionControlSubstitute):
            # A swap inside a swap has no text: compel fails when it encodes, we fail here.
            side = child.edited if edited else child.original
            for both in [child.edited, child.original]:
                assert all(hasattr(own, "text") for own in both)
            fragments += [[own.text, own.weight] for own in side]
        else:
            fragments.append([child.text, child.weight])
    return fragments


def parts_of(conjunction):
    from compel.prompt_parser import Blend

    parts = []
    for prompt, weight in zip(conjunction.prompts, conjunction.weights):
        is_blend = isinstance(prompt, Blend)
        # Compel divides by the sum and goes on with infinities: as good as refused.
        assert not is_blend or not prompt.normalize_weights or abs(sum(prompt.weights)) > 1e-6
        prompts = zip(prompt.prompts, prompt.weights) if is_blend else [(prompt, 1.0)]
        rows = []
        for own, share in prompts:
            swaps = own.wants_cross_attention_control
            edited = fragments_of(own.children, True) if swaps else None
            rows.append([share, fragments_of(own.children, False), edited])
        parts.append([weight, prompt.normalize_weights if is_blend else True, rows])
    # Without fragments compel fails when it encodes; the empty prompt is meant.
    return parts or [[1.0, True, [[1.0, [["", 1.0]], None]]]]


def compel_reads(prompts):
    """`(prompt, parts or None, loras)`, without those that take too long."""
    import pyparsing
    from compel.prompt_parser import PromptParser

    # It remembers what it has tried, which changes its time and no result.
    pyparsing.ParserElement.enable_packrat(cache_size_limit=None)
    sys.setrecursionlimit(10_000)
    signal.signal(signal.SIGPROF, give_up)
    parser = PromptParser()
    rows = []
    for prompt in prompts:
        parts, loras = None, []
        signal.setitimer(signal.ITIMER_PROF, 2)
        try:
            parsed = parser.parse_conjunction(prompt)
            loras = [[lora.model, lora.weight] for lora in parsed.lora_weights]
            parts = parts_of(parsed)
        except TooSlow:
            continue
        except Exception:
            pass
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        rows.append((prompt, parts, loras))
    return rows


def compel_fragments(prompts):
    """`[prompt, fragments or None]` of texts that are one prompt without swaps."""
    rows = []
    for prompt, parts, _ in compel_reads(prompts):
        rows.append([prompt, parts and parts[0][2][0][1]])
    return rows


def describe(program, prompts):
    """What our side makes of the prompts."""
    done = subprocess.run(
        [program], input=json.dumps(prompts), capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def check(program, seed, count):
    """How many random texts are read otherwise than compel reads them."""
    draw = random.Random(seed)
    texts = random_prompts(seed, count) + [random_joined(draw) for _ in range(count)]
    texts += [random_letters(draw) for _ in range(count)]
    rows = compel_reads(texts)
    different, refused, wrongly_printed = 0, 0, 0
    for (text, parts, loras), ours in zip(rows, describe(program, [row[0] for row in rows])):
        if ours["reparsed"] != ours["parts"]:
            wrongly_printed += 1
            print(f"{text!r} is printed as {ours['printed']!r}")
        if parts is None:
            refused += 1
        elif ours["parts"] != parts or ours["loras"] != loras:
            different += 1
            print(f"{text!r}\n  compel {parts} {loras}\n  ours   {ours['parts']} {ours['loras']}")
    joined = sum(parts is not None and len(parts) + len(parts[0][2]) > 2 for _, parts, _ in rows)
    sides = [prompt for _, parts, _ in rows for part in parts or [] for prompt in part[2]]
    swapped = sum(prompt[2] is not None for prompt in sides)
    print(f"{len(rows)} texts ({joined} joined, {swapped} with swaps, {refused} refused by compel):")
    print(f"{different} differ, {wrongly_printed} are printed wrongly")
    return different + wrongly_printed


def write(path, rows):
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(rows)} prompts in {path}")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", type=Path, default=Path("parity/goldens"))
    arguments.add_argument("--check", metavar="PROGRAM")
    arguments.add_argument("--count", type=int, default=260)
    arguments.add_argument("--seed", type=int, default=7)
    options = arguments.parse_args()

    if options.check:
        sys.exit(check(options.check, options.seed, options.count) > 0)
    rows = compel_fragments(CHOSEN + random_prompts(options.seed, options.count))
    write(options.out / "prompt-fragments.json", rows)
    draw = random.Random(options.seed)
    rows = compel_reads(JOINED + [random_joined(draw) for _ in range(options.count)])
    keys = ["text", "parts", "loras"]
    write(options.out / "prompt-parts.json", [dict(zip(keys, row)) for row in rows])


if __name__ == "__main__":
    main()
