"""Writes goldens/prompt-fragments.json: prompts, and the fragments compel makes of them.

    python parity/make_prompts.py [--out parity/goldens] [--check PROGRAM --count N --seed S]

With `--check` it compares N random prompts with `target/release/examples/plan` instead (built by
`cargo build --release -p unwrong-prompt --example plan`) and writes nothing.

A prompt that compel refuses has `null` for fragments. One that takes compel more than two seconds
is left out: its time doubles with every bracket.
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


def compel_fragments(prompts):
    """`[prompt, fragments or None]`, without those that take too long."""
    from compel.prompt_parser import PromptParser

    sys.setrecursionlimit(10_000)
    signal.signal(signal.SIGALRM, give_up)
    parser = PromptParser()
    rows = []
    for prompt in prompts:
        signal.setitimer(signal.ITIMER_REAL, 2)
        try:
            parsed = parser.parse_conjunction(prompt)
            fragments = [[f.text, f.weight] for p in parsed.prompts for f in p.children]
        except TooSlow:
            continue
        except Exception:
            fragments = None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        # Without fragments compel fails when it encodes; the empty prompt is meant.
        rows.append([prompt, [["", 1.0]] if fragments == [] else fragments])
    return rows


def describe(program, prompts):
    """What our side makes of the prompts."""
    done = subprocess.run(
        [program], input=json.dumps(prompts), capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--out", type=Path, default=Path("parity/goldens"))
    arguments.add_argument("--check", metavar="PROGRAM")
    arguments.add_argument("--count", type=int, default=260)
    arguments.add_argument("--seed", type=int, default=7)
    options = arguments.parse_args()

    prompts = random_prompts(options.seed, options.count)
    if not options.check:
        rows = compel_fragments(CHOSEN + prompts)
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        path = options.out / "prompt-fragments.json"
        path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        print(f"{len(rows)} prompts in {path}")
        return

    rows = compel_fragments(prompts)
    different = 0
    for (prompt, expected), ours in zip(rows, describe(options.check, [row[0] for row in rows])):
        found = [[fragment["text"], fragment["weight"]] for fragment in ours["fragments"]]
        if expected is not None and found != expected:
            different += 1
            print(f"{prompt!r}\n  compel {expected}\n  ours   {found}")
    print(f"{len(rows)} prompts, {different} differ")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
