"""Token ids from transformers' CLIPTokenizer, as diffusers loads it."""

from .golden import write_json

LONG = " ".join(
    f"{adjective} {noun}"
    for adjective in ["red", "Blue", "tiny", "gigantic", "weathered", "iridescent", "bioluminescent", "old-fashioned", "très", "moss-covered"]
    for noun in ["apple", "lighthouse", "Dodecahedron", "cat's", "velociraptor,", "teapots.", "über-car", "staircase", "猫", "snow", "q&a", "1984", "bridge", "robot;", "sky"]
)

TEXTS = [
    "", " ", "   ", "\n", "\t\n\r ", ".", "...", "!", "!!", "!!!", "!!!!!!!!!!", "?!", ",", ",,,", "-", "--", "()", "((()))", "'", "''", "\"", "\\", "/", "@", "#", "$", "%", "^", "&", "*", "_", "__", "~", "`", "|", "{}", "[]", "<>", "=", "+",
    "a", "A", "a photo of a cat", "A Photo Of A CAT", "a  photo\tof\na   cat ", "  a red apple", "a red apple  ",
    "hello!", "hello !", "hello! world!", "!hello", "wow!!! great!", "a ! b", "!a!b!",
    "You should've done this", "it's", "IT'S", "don't we'll I'm they're he'd we've", "rock 'n' roll", "'s", "'ll 'd 'm", "dogs' bones", "it’s a typographic apostrophe",
    "résumé", "RÉSUMÉ", "re\u0301sume\u0301", "naïve café, São Paulo", "Ångström ÅNGSTRÖM A\u030angstro\u0308m", "ß ẞ straße STRASSE", "İstanbul ı I i", "Ǆ ǅ ǆ ﬁ ﬂ ﬀ", "Ὀδυσσεύς ΣΊΣΥΦΟΣ", "ΑΣ ΑΣ.", "Привет, мир", "Ёлка Й и\u0306",
    "foo_bar", "snake_case_name", "_foo", "foo_", "__init__", "camelCase HTTPServer",
    "1233", "12 33", "1,000.50", "3.14159", "year 2023", "0", "007", "x2", "2x", "1st 2nd 3rd", "½ ² ③ Ⅷ ٣ 四", "10⁵",
    "&amp;", "a &amp; b", "&lt;b&gt;", "&quot;quoted&quot;", "&#39;", "&amp;amp;", "Tom & Jerry",
    "日本語のテキスト", "一隻貓在雪中", "猫", "한국어 텍스트", "テスト", "ﾃｽﾄ", "가 가", "ไทย ภาษา", "नमस्ते दुनिया", "தமிழ்",
    "😀", "😀😀", "a 🐱 cat", "👨‍👩‍👧‍👦", "🇩🇪", "❤️", "❤", "👍🏽", "🧑‍🚀 on the moon",
    "שלום עולם", "مرحبا بالعالم", "\u202eright to left\u202c", "العَرَبِيَّة",
    "non\u00a0breaking\u00a0space", "thin\u2009space", "ideographic\u3000space", "zero\u200bwidth", "zero\u200dwidth\u200djoiner", "word\u2060joiner", "line\u2028separator\u2029paragraph", "next\u0085line", "form\u000cfeed vertical\u000btab", "\ufeffbyte order mark", "unit\u001fseparator file\u001cseparator group\u001dseparator record\u001eseparator", "mongolian\u180eseparator", "soft\u00adhyphen",
    "nul\u0000char", "bell\u0007", "esc\u001b[31m", "del\u007f", "\u0001\u0002\u0003", "c1\u0080\u009f", "\ufffd", "\ufffe", "\U0010ffff", "\ue000 private use",
    "<|startoftext|>", "<|endoftext|>", "a <|endoftext|> b", "<|EndOfText|>", "a<|endoftext|>b<|startoftext|>c", "<|endoftext", "|endoftext|>", "<|endoftext|> !",
    "http://example.com/a?b=c&d=e", "user@example.com", "C++ and C#", "c:\\windows\\system32", "a/b/c", "50% off!", "$19.99", "key=value; other=2", "(masterpiece:1.2), best quality", "<lora:name:0.8>", "[from:to:0.5]", "a, b,c ,d", "semi;colon:colon", "hyphen-ated state-of-the-art", "em—dash en–dash", "“curly” ‘quotes’ «guillemets»", "ellipsis…", "™ © ®", "€ £ ¥ ₹", "→ ← ⇒", "√2 ≈ 1.414 ∑ ∞", "a·b", "ªº", "x̂ ỹ z̄", "Z\u0351\u036b\u0343a\u0321l\u0353g\u033bo",
    "supercalifragilisticexpialidocious", "pneumonoultramicroscopicsilicovolcanoconiosis", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "qzxj wvkq", "asdfghjkl",
    "low quality, bad hands, random text, error, missing or extra fingers, cropped, jpeg artifacts, signature, watermark, blurry, ugly, duplicate, mutilated",
    "wrong", "a red apple, flat", "a yellow star",
    " ".join(["word"] * 74), " ".join(["word"] * 75), " ".join(["word"] * 76), " ".join(["word"] * 77),
    LONG,
]


def write(pipe, folder):
    """tokens.json"""
    rows = []
    for text in TEXTS:
        row = {"text": text, "ids": [], "padded": []}
        for tokenizer in (pipe.tokenizer, pipe.tokenizer_2):
            row["ids"].append(tokenizer(text, truncation=False, verbose=False).input_ids)
            row["padded"].append(
                tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
            )
        row["same"] = row["ids"][0] == row["ids"][1]
        rows.append(row)
    write_json(
        folder / "tokens.json",
        {
            "pad": [pipe.tokenizer.pad_token_id, pipe.tokenizer_2.pad_token_id],
            "bos": pipe.tokenizer.bos_token_id,
            "eos": pipe.tokenizer.eos_token_id,
            "texts": rows,
        },
    )
