#!/usr/bin/env python3
"""Makes tests/golden/bpe/: a small byte-level BPE and the ids that Hugging Face's own implementation gives nasty texts.

    python3 scripts/golden/make_bpe_golden.py [OUTPUT_DIRECTORY]             (package tokenizers of PyPI, 0.23 was used)

    tokenizer.json   trained here on the repository's words and the texts below; GPT-2's pre-tokenizer
    texts.json       the texts
    variants.json    [{name, patch, ids}]: patch = keys of tokenizer.json to replace (of model: keys in it), the pre-tokenizers
                     and normalizers of models that people use; ids[i] = what tokenizers encodes texts[i] to, without begin and end tokens
Tests only read the files; nobody needs Python. Not here: texts that are not UTF-8, which the implementation does not take.
"""
import json
import pathlib
import sys

import tokenizers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]

GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LAST = dict(GPT2, use_regex=False)
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
QWEN2 = CL100K.replace("{1,3}", "")
O200K = "|".join([
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
HAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK_V3 = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
               " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def split(pattern, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": "Isolated", "invert": False}


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


VARIANTS = {
    "gpt2": {},
    "olmoe": {"normalizer": {"type": "NFC"}},
    "llama3": {"pre_tokenizer": sequence(split(CL100K), LAST), "model": {"ignore_merges": True}},
    "qwen2": {"normalizer": {"type": "NFC"}, "pre_tokenizer": sequence(split(QWEN2), LAST)},
    "gpt-oss": {"pre_tokenizer": sequence(split(O200K), LAST)},
    "deepseek-v2": {"normalizer": {"type": "Sequence", "normalizers": []}, "pre_tokenizer": sequence(
        split("[\r\n]"), split("\\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0370-\u03ff\u0400-\u04ff]+"),
        split("\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"), split("\\s+$".replace("$", "")),
        split("[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7a3]+"), {"type": "Digits", "individual_digits": True}, LAST)},
    "deepseek-v3": {"pre_tokenizer": sequence(split("\\p{N}{1,3}"), split(HAN), split(DEEPSEEK_V3), LAST)},
    "kimi": {"pre_tokenizer": sequence(split(KIMI), LAST)},
    "digits": {"pre_tokenizer": sequence({"type": "Digits", "individual_digits": False}, split("a.b", "String"), GPT2)},
}

TEXTS = [
    "", "a", " ", "Hello world! It's what they'll do, isn't it? I'VE SAID: WE'RE 'Tis 'd",
    "in 2024 there were 1234567 of 3.14159, ²³ ½ Ⅷ ٣٤ 一二三 ①",
    "spaces  two   three    four \t tab\t\ttabs \n line\n\n\n lines \r\n crlf\r\n\r\n  end   ",
    "  leading", "trailing  ", "\n", "\r\n", "\n\n \n  \n x", "a\u00a0b\u3000c\u2009\u2009d\u180ee\u0085f\u2028g\u1680h\x0b\x0ci\x1cj",
    "naïve café, Ångström; nai\u0308ve cafe\u0301 A\u030angstro\u0308m \u212b \u1e9b\u0323 q\u0307\u0323",
    "e\u0301\u0301\u0302\u0323 \u0301alone \u0915\u094d\u0937 \ud55c\uad6d \u1112\u1161\u11ab\u1100\u116e\u11a8",
    "中文与English混排，标点。日本語のテキスト、カタカナー。한국어 텍스트 々〆 𠀀𠀁 〇",
    "emoji 😀😃 👩‍👩‍👧‍👦 🇩🇪🇫🇷 👍🏽 ❤️ #️⃣ 🏳️‍🌈 ©®™",
    "Привет, мир! Γειά σου Κόσμε; ǅ ǈ ʰʷ İıſK ß ﬁ 'ſ 'S it'ſ xK",
    "مرحبا بالعالم שלום עולם สวัสดีชาวโลก हिन्दी ქართული ՀԱՅ",
    "def f(x):\n    if x > 0:  # why\n\t\treturn x**2 / (1.0 - x)\n\n\nclass A_b__c: pass //* <html>&amp;</html> a.b.c",
    "http://x.org/a?b=c&d=%20#frag user@mail.com C:\\dir\\file.txt $1,234.50 -- --- ... !!! ???\n\n???",
    "<|endoftext|>begin<|end|><|endoftext|> <|end|>of<|endoftext <|end of<|en<|endof|>|endoftext|> x<|end|>\n",
    "<｜begin▁of▁sentence｜>hi<｜begin▁of▁sentence｜ caf\u00e9tok cafe\u0301tok    four\n    four",
    "\x00\x01\x7f\u200b\u200d\ufeff\ufffd\U0010ffff\ue000 zero\u200cwidth", "ÀÉÎ ÄÖÜ aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" + "ab" * 60,
    "thethethe anan theanthe 's'S'tt'T 'LL'll 'Re'rE", "𝒜𝓑 𝟙𝟚 ᾳ ΐ ŉ ǰ i̇ ",
]


def patched(base, patch):
    return {**base, **patch, "model": {**base["model"], **patch.get("model", {})}}


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests/golden/bpe"
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                  special_tokens=["<|endoftext|>"])
    words = (ROOT / "README.md").read_text() + (ROOT / "NEWS.md").read_text()
    tokenizer.train_from_iterator([words] + TEXTS * 4, trainer)
    tokenizer.add_tokens([AddedToken("<|end|>", special=True, normalized=False),
                          AddedToken("<|endof|>", special=False, normalized=False),
                          AddedToken("<｜begin▁of▁sentence｜>", special=True, normalized=False),
                          AddedToken("caf\u00e9tok", special=False, normalized=True),
                          AddedToken("    ", special=False, normalized=True)])
    base = json.loads(tokenizer.to_str())
    base["model"]["merges"] = [m if isinstance(m, str) else " ".join(m) for m in base["model"]["merges"]]
    dump = lambda name, what: (out / name).write_text(json.dumps(what, ensure_ascii=True, separators=(",", ":")) + "\n")
    variants = []
    for name, patch in VARIANTS.items():
        variant = Tokenizer.from_str(json.dumps(patched(base, patch)))
        ids = [variant.encode(t, add_special_tokens=False).ids for t in TEXTS]
        variants.append({"name": name, "patch": patch, "ids": ids})
    dump("tokenizer.json", base)
    dump("texts.json", TEXTS)
    dump("variants.json", variants)
    print(f"tokenizers {tokenizers.__version__}: {len(variants)} variants of {len(TEXTS)} texts in {out}")


if __name__ == "__main__":
    main()
