"""Writes goldens/a1111.json: prompts, and what A1111's own code makes of them.

    python parity/make_a1111.py CHECKOUT [--out parity/goldens] [--check PROGRAM --count N --seed S]

CHECKOUT is a folder with stable-diffusion-webui 1.10.1 (`modules/prompt_parser.py` and its
neighbours). It runs without its models: what those files import is replaced by stubs. Needs
`requirements-a1111.txt`.

With `--check` it compares N random prompts with `target/release/examples/script` instead (built by
`cargo build --release -p unwrong-prompt --example script`) and writes nothing.

Where a prompt is broken, its schedule in A1111 depends on the order of a Python set, so on
PYTHONHASHSEED. Schedules are read with several seeds, and are `null` where these differ, or where
reading takes more than a second.
"""

import argparse
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import types
from pathlib import Path

STEPS = [10, 25]
HASH_SEEDS = range(4)
# For texts whose schedule is not ours with those.
MORE_HASH_SEEDS = range(4, 20)
TOKENIZER = Path(__file__).resolve().parent.parent / "crates/demo/model/base/tokenizer"

WORDS = "red green blue black white small large old new round flat soft hard dry wet".split()
LONG = " ".join(WORDS[n % len(WORDS)] for n in range(74))


def words(count, start=0):
    return " ".join(WORDS[(start + n) % len(WORDS)] for n in range(count))


CHOSEN = [
    "",
    " ",
    "a cat",
    "test",
    # The examples in A1111's own tests.
    "a [b:3]",
    "a [b: 3]",
    "a [[[b]]:2]",
    "[(a:2):3]",
    "a [b : c : 1] d",
    "a[b:[c:d:2]:1]e",
    "a [unbalanced",
    "a [b:.5] c",
    "a [{b|d{:.5] c",
    "((a][:b:c [d:3]",
    "[a|(b:1.1)]",
    "[fe|]male",
    "[fe|||]male",
    "normal text",
    "an (important) word",
    "(unbalanced",
    "\\(literal\\]",
    "(unnecessary)(parens)",
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
    "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75]"
    "[ in foreground::0.6][: in background:0.25] [shoddy:masterful:0.5]",
    # Schedules.
    "a [cat:dog:0.5] in a garden",
    "a [cat:dog:5] in a garden",
    "a [cat:dog:5.] [x:y:5.0] [x:y:0.0] [x:y:0]",
    "[:late:5] [early::5] [::5] [:5]",
    "[a:b:1e1] [a:b:1e-1] [a:b:1.5e-1] [a:b:+4] [a:b:-3] [a:b:-0.5]",
    "[a:b:100] [a:b:1.5] [c:99]",
    "[a:b:0.29] [a:b:0.3] [a:b:0.07] [a:b:.99]",
    "[a:b:0.5 ] [a:b: 0.5\n] [a:b:\t7\u00a0]",
    "[a:b:c:5] and [d:e:3]",
    "[a:b:x] and [a:b] and [a:b:]",
    "[a:b:5 6] [a:b:5e] [a:b:1.2.3] [a:b:0x5]",
    "[[a:b:3]:[c:d:7]:5]",
    "[[[a:b:2]:c:4]:d:6]",
    "[[a|b]:[c|d|e]:0.5]",
    "[a|[b:c:5]]",
    "[[a|b]|c]",
    "[|a] [a|] [|] [||]",
    "([a:b:0.5]:1.3) and [(a):(b:1.2):0.5]",
    "(x [a:b:4] y) [z [c|d]]",
    "(x:[a:b:4])",
    "\\[a:b:0.5\\] and [\\(a\\):\\[b\\]:0.5]",
    "[a\\:b:c:0.5]",
    "[a\\|b|c]",
    "a | b",
    "(a|b) [c:d:5]",
    "[a:b|c:5]",
    "[a|b:c] d",
    "[c:d:5] backslash\\",
    "[c:d:5] back\\slash",
    "[a:b:0.5] backslash at \\\n the end of a line",
    "[multi\nline:text\nhere:0.5]",
    "[a:b:0.5][c:d:0.5][e:f:0.25]",
    "a [b c [d:e:0.5] f",
    "a] b [c:d:0.5]",
    "[\u732b:\u72ac:0.5] [caf\u00e9|th\u00e9]",
    # Parts.
    "a cat AND a dog",
    "a cat :1.2 AND a dog :0.8 AND a bird",
    "a cat:1.2AND a dog",
    "a cat :-0.5 AND a dog:+2. AND x: .5 AND y: 1 : 2",
    "a cat :1,2 AND SAND AND AND_ AND(b) AND :3",
    "AND",
    " a \n AND \n b \n",
    "[a:b:0.5] AND [c|d] :0.7",
    "[a AND b:0.5]",
    "a clock at 10:30",
    "a :1.2.3 AND b :x",
    # Networks.
    "a <lora:name> b",
    "<lora:name:0.8>, <lora:other:0.8:0.6> c",
    "<lora:a:te=0.5:unet=0.7><lora:b:unet=0.7><lora:c:1:te=0.5> d",
    "<hypernet:x:1> <lyco:y:0.5> <nothing:z> <3 a<b> <lora:> <lora> <lora:a",
    "<lora:[a:b:0.5]:1> x <\u043b\u043e\u0440\u0430:\u0438\u043c\u044f:1>",
    # Emphasis.
    "[x] [[x]] (x) ((x)) [(x)] ([x])",
    "(a:1.3) (b: 1.3 ) (c:+.5) (d:-1) (e:0) (f:1.)",
    "(a:1.3 b:2) (a:b) (:1.5) () (:) a:1.5) b",
    "(a (b:1.2) [c] d:1.4)",
    "(a [b) c]",
    "a) b] (c [d",
    "((((a",
    "a \\ b \\\\ c \\\\( d \\) e \\x",
    "(a\\) b) \\((c\\):1.2)",
    "(x:1.1)(y:1.1)(z)",
    "(a:1000) (b:0.001) ((((c:9):9):9):9)",
    "(\u65e5\u672c\u8a9e:1.2) (\u00e9t\u00e9) \U0001f600 (na\u00efve:0.9)",
    "masterpiece, (best quality:1.4), 1girl, ((solo)), [blurry], (detailed eyes:1.15), \\(artist\\)",
    # Breaks.
    "a BREAK b",
    "BREAK",
    "BREAK a BREAK BREAK b BREAK",
    "aBREAK b BREAKc BREAK_d x:BREAK y",
    "(a BREAK b)",
    "(a:1.2) BREAK (b:0.8), c",
    "a\nBREAK\nb",
    "[a BREAK b:c:0.5]",
    # Long ones, and commas near token 75.
    words(74),
    words(75),
    words(76),
    words(77),
    words(150),
    words(151),
    words(54) + ", " + words(30),
    words(55) + ", " + words(30),
    words(56) + ", " + words(30),
    words(73) + ", " + words(30),
    words(74) + ", " + words(30),
    words(75) + ", " + words(30),
    words(74) + ",,,, " + words(30),
    words(60) + ", " + words(4) + ", " + words(80),
    words(70) + ", (" + words(9) + ":1.3), " + words(70),
    words(70) + " (" + words(3) + ":1.3), [" + words(9) + "] " + words(70),
    words(40) + " BREAK " + words(80) + ", " + words(3),
    ", ".join(words(7, n) for n in range(30)),
    ", ".join(words(24, n) for n in range(8)),
    "! " * 80,
    "wow! (wow!:1.2)",
    "antidisestablishmentarianism " * 14,
]

PIECES = (
    ["(", ")", "[", "]", ":", "|", "\\", ",", ".", " ", "a", "b", "1", "(", ")", "[", "]", ":"]
    + ["[a:b:5]", "[a|b]", "(a:1.2)", "[", "]", "0.5]", ":3]", "BREAK", " BREAK ", " AND ", "<lora:"]
    + [">", "<lora:a:1>", "\n", "\u00e9", "=", "te=", "-", "AND", "1.5)", " :1.2 AND ", "\\(", "\\]"]
)


def random_prompts(seed, count):
    draw = random.Random(seed)
    lengths = [3, 6, 10, 16, 24]
    return ["".join(draw.choices(PIECES, k=draw.randint(1, draw.choice(lengths)))) for _ in range(count)]


class TooSlow(Exception):
    pass


def give_up(*_):
    raise TooSlow


class Nothing(types.ModuleType):
    """Stands for whatever a file imports and does not use here."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(name)


def stub(name, **members):
    module = Nothing(name)
    module.__dict__.update(members)
    sys.modules[name] = module
    return module


class Oracle:
    def __init__(self, checkout):
        sys.path.insert(0, str(checkout))
        options = types.SimpleNamespace(emphasis="Original", comma_padding_backtrack=20)
        no_embedding = types.SimpleNamespace(find_embedding_at_position=lambda tokens, at: (None, None))
        hijack = types.SimpleNamespace(embedding_db=no_embedding)
        stub("modules.shared", opts=options)
        stub("modules.sd_hijack", model_hijack=hijack)
        for name in ["devices", "errors", "sd_hijack_clip_utils"]:
            stub(f"modules.{name}")
        from modules import extra_networks, prompt_parser

        self.parser, self.networks = prompt_parser, extra_networks
        self.clips = None

    def load_clips(self):
        from modules.sd_hijack_clip import TextConditionalModel
        from transformers import CLIPTokenizer

        hugging_face = CLIPTokenizer.from_pretrained(TOKENIZER)
        path = importlib.util.find_spec("open_clip").submodule_search_locations[0]
        spec = importlib.util.spec_from_file_location("open_clip_tokenizer", f"{path}/tokenizer.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        open_clip = module.SimpleTokenizer()

        def clip(tokenize, comma, start, end, pad):
            model = TextConditionalModel()
            model.tokenize = tokenize
            model.comma_token, model.id_start, model.id_end, model.id_pad = comma, start, end, pad
            return model

        encode = lambda texts: hugging_face(texts, truncation=False, add_special_tokens=False)["input_ids"]
        vocabulary = hugging_face.get_vocab()
        markers = hugging_face.bos_token_id, hugging_face.eos_token_id
        first = clip(encode, vocabulary[",</w>"], *markers, markers[1])
        encode_open = lambda texts: [open_clip.encode(text) for text in texts]
        comma = open_clip.encoder[",</w>"]
        second = clip(encode_open, comma, open_clip.sot_token_id, open_clip.eot_token_id, 0)
        self.clips = [first, second]

    def split(self, prompt):
        """The networks, the text without them, and its parts."""
        rest, networks = self.networks.parse_prompt(prompt)
        networks = [[kind, params.items] for kind, all in networks.items() for params in all]
        (indexes,), texts, _ = self.parser.get_multicond_prompt_list([rest])
        return networks, rest, [[texts[index], weight] for index, weight in indexes]

    def schedules(self, text):
        """For the numbers of steps, read in the new and the old way."""
        read = self.parser.get_learned_conditioning_prompt_schedules
        # Of the processor's time: other programs must not decide.
        signal.setitimer(signal.ITIMER_PROF, 1)
        try:
            return [[read([text], steps, None, old)[0] for steps in STEPS] for old in (False, True)]
        except Exception:
            return None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)

    def attention(self, text):
        try:
            return self.parser.parse_prompt_attention(text)
        except ValueError:
            return None

    def chunks(self, text):
        """For both encoders, the ids as they enter the model, and the weights."""
        result = []
        for clip in self.clips:
            ids = []
            chunks = clip.tokenize_line(text)[0]
            for chunk in chunks:
                # As `process_tokens` does it.
                end = chunk.tokens.index(clip.id_end)
                padding = [clip.id_pad] * (len(chunk.tokens) - end - 1)
                fill = clip.id_end != clip.id_pad
                ids.append(chunk.tokens[: end + 1] + padding if fill else chunk.tokens)
            result.append(ids)
        return [*result, [chunk.multipliers for chunk in chunks]]


def all_schedules(checkout, texts, seeds=HASH_SEEDS):
    """Schedules of each text, one for each hash seed."""
    command = [sys.executable, __file__, str(checkout), "--schedules"]
    runs = []
    for seed in seeds:
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(
            command, input=json.dumps(texts), capture_output=True, text=True, check=True, env=environment
        )
        runs.append(json.loads(done.stdout))
    return list(zip(*runs))


def golden(checkout):
    oracle = Oracle(checkout)
    oracle.load_clips()
    splits = [oracle.split(prompt) for prompt in CHOSEN]
    texts = list(dict.fromkeys(text for _, _, parts in splits for text, _ in parts))
    read = dict(zip(texts, all_schedules(checkout, texts)))
    rows = []
    for prompt, (networks, rest, parts) in zip(CHOSEN, splits):
        schedules = []
        for text, _ in parts:
            first, *others = read[text]
            schedules.append(first if all(other == first for other in others) else None)
        rows.append({"text": prompt, "networks": networks, "rest": rest, "parts": parts, "schedules": schedules})
    for row in rows:
        for (text, _), schedule in zip(row["parts"], row["schedules"]):
            if schedule:
                texts += [schedule[0][0][0][1], schedule[0][0][-1][1]]
    encoded = []
    for text in dict.fromkeys(texts + CHOSEN):
        attention = oracle.attention(text)
        chunks = oracle.chunks(text) if attention else None
        encoded.append({"text": text, "attention": attention, "chunks": chunks})
    return rows, encoded


def describe(program, prompts):
    """What our side makes of the prompts."""
    done = subprocess.run([program], input=json.dumps(prompts), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def near(found, expected):
    return len(found) == len(expected) and all(
        one[0] == other[0] and abs(one[1] - other[1]) <= 1e-6 * max(1, abs(other[1]))
        for one, other in zip(found, expected)
    )


def limited(pairs):
    """Weights as far as ours go."""
    return [[text, max(-1e6, min(1e6, weight))] for text, weight in pairs]


def check(checkout, program, prompts):
    oracle = Oracle(checkout)
    oracle.load_clips()
    splits = [oracle.split(prompt) for prompt in prompts]
    texts = list(dict.fromkeys(text for _, _, parts in splits for text, _ in parts))
    read = dict(zip(texts, all_schedules(checkout, texts)))
    counts = dict.fromkeys(["parts", "schedules", "attention", "chunks"], 0)
    different = dict.fromkeys(counts, 0)

    def compare(what, prompt, found, expected, equal):
        counts[what] += 1
        if not equal:
            different[what] += 1
            if different[what] <= 10:
                print(f"{what} of {prompt!r}\n  A1111 {expected}\n  ours  {found}")

    schedules = {}
    for prompt, (_, _, parts), ours in zip(prompts, splits, describe(program, prompts)):
        found = [[part["text"], part["weight"]] for part in ours["parts"]]
        compare("parts", prompt, found, parts, near(found, parts))
        for (text, _), part in zip(parts, ours["parts"]):
            if None not in read[text]:
                schedules[text] = part["schedules"]
        attention = oracle.attention(prompt)
        if attention is not None:
            found = ours["attention"]
            compare("attention", prompt, found, attention, near(found, limited(attention)))
            ids = oracle.chunks(prompt)[:2]
            compare("chunks", prompt, ours["chunks"][:2], ids, ours["chunks"][:2] == ids)
    unlike = [text for text, ours in schedules.items() if ours not in read[text]]
    more = dict(zip(unlike, all_schedules(checkout, unlike, MORE_HASH_SEEDS)))
    for text, ours in schedules.items():
        every = [*read[text], *more.get(text, [])]
        compare("schedules", text, ours, every, ours in every)
    for what, count in counts.items():
        print(f"{what}: {count} compared, {different[what]} differ")
    print(f"schedules: {len(unlike)} are A1111's with some hash seeds alone")
    return sum(different.values())


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("checkout", type=Path)
    arguments.add_argument("--out", type=Path, default=Path("parity/goldens"))
    arguments.add_argument("--check", metavar="PROGRAM")
    arguments.add_argument("--count", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=7)
    arguments.add_argument("--schedules", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()

    if options.schedules:
        sys.modules["torch"] = Nothing("torch")
        signal.signal(signal.SIGPROF, give_up)
        oracle = Oracle(options.checkout)
        json.dump([oracle.schedules(text) for text in json.load(sys.stdin)], sys.stdout)
        return
    if options.check:
        sys.exit(check(options.checkout, options.check, random_prompts(options.seed, options.count)) > 0)

    rows, encoded = golden(options.checkout)
    line = lambda row: json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    lists = [",\n".join(map(line, part)) for part in (rows, encoded)]
    path = options.out / "a1111.json"
    path.write_text('{"prompts":[\n%s\n],"texts":[\n%s\n]}\n' % tuple(lists), encoding="utf-8")
    settled = sum(None not in row["schedules"] for row in rows)
    print(f"{len(rows)} prompts ({settled} with settled schedules), {len(encoded)} texts in {path}")


if __name__ == "__main__":
    main()
