"""Writes the two tables the tokenizer carries.

`crates/prompt/assets/merges.bin`: CLIP's 48,894 merges, as pairs of token ids (u16,
little-endian), in order of rank. `crates/prompt/src/tokenizer/unicode.rs`: the code points
that the `tokenizers` library's regular expressions call letters and numbers.

Run with the pinned Python of `parity/requirements.txt` from the root of the repository.
"""

import struct
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

ROOT = Path(__file__).resolve().parent.parent
MERGES = ROOT / "crates/demo/model/base/tokenizer/merges.txt"


def byte_characters():
    """The 256 stand-in characters of byte-level BPE, in the order of CLIP's vocabulary."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(256 + n) for n in range(len(hidden))]


def write_merges():
    characters = byte_characters()
    ids = {text: n for n, text in enumerate(characters + [c + "</w>" for c in characters])}
    pairs = bytearray()
    for line in MERGES.read_text(encoding="utf-8").splitlines()[1:]:
        left, right = line.split(" ")
        pairs += struct.pack("<HH", ids[left], ids[right])
        ids[left + right] = len(ids)
    assert len(ids) == 49_406, len(ids)
    (ROOT / "crates/prompt/assets/merges.bin").write_bytes(pairs)


def ranges(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = set()
    points = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    for start in range(0, len(points), 4096):
        text = "".join(map(chr, points[start : start + 4096]))
        for piece, _ in split.pre_tokenize_str(text):
            found.update(map(ord, piece))
    runs = []
    for point in sorted(found):
        if runs and runs[-1][1] == point - 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    return runs


def write_unicode():
    lines = [
        "//! Letters and numbers, as the oracle's regular expressions know them (Unicode 16).",
        "//!",
        "//! Written by `parity/make_tokenizer_tables.py`; first and last code point of each run.",
        "",
    ]
    for name, what, pattern in [
        ("LETTERS", r"`\p{L}`", r"\p{L}"),
        ("NUMBERS", r"`\p{N}`", r"\p{N}"),
    ]:
        lines.append(f"/// {what}.")
        lines.append("#[rustfmt::skip]")
        lines.append(f"pub(super) static {name}: &[(u32, u32)] = &[")
        row = "   "
        for first, last in ranges(pattern):
            item = f" (0x{first:x}, 0x{last:x}),"
            if len(row) + len(item) > 98:
                lines.append(row)
                row = "   "
            row += item
        lines += [row, "];", ""]
    path = ROOT / "crates/prompt/src/tokenizer/unicode.rs"
    path.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")


write_merges()
write_unicode()
