#!/usr/bin/env python3
"""Writes tests/golden/eval: small evaluation files and what moe-eval tasks must make of them.

A second implementation of the rules that lm-evaluation-harness 0.4 applies, in plain Python: prompts, clean-up, the cut between
context and continuation, accuracies, standard errors. It shares no code with lib/run/eval_tasks*. The model is a hash of the
tokens (the test has the same), so that every score is exact. The texts are made up here; none is from a data set.

lm_eval 0.4.13 itself, run with this model and these tokenizers on these files (first_n sampler), gave the same prompts, scores,
accuracies, standard errors and perplexities for every task but `choices`, which it does not have.

    python3 scripts/golden/make_eval_golden.py tests/golden/eval
"""
import csv
import json
import math
import pathlib
import random
import re
import sys

# The odd ones: capitals inside, letters outside ASCII, white space that is no space, WikiHow's marks.
WORDS = ("the a lamp river Stone cat runs over under quietly naïve Ärger 東京 blue seven often Never ship's [title] [step] "
         "[unfinished then\u00a0now OÙ ten").split(" ")
PIECES = ["Question: ", "Question:", "Answer:", "Answer: ", " the", " a", ": ", "er", "ing", ".\n", "  ", "s ", " A", "\n\n"]


def fnv(numbers):
    h = 0xCBF29CE484222325
    for n in numbers:
        for byte in n.to_bytes(4, "little"):
            h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


class Tokenizer:
    """Bytes; where `pieces`, the longest piece that fits comes first."""

    def __init__(self, pieces):
        self.pieces = sorted(((p.encode(), 256 + i) for i, p in enumerate(pieces)), key=lambda p: -len(p[0]))

    def encode(self, text):
        data, ids, at = text.encode(), [], 0
        while at < len(data):
            piece, number = next((p for p in self.pieces if data.startswith(p[0], at)), (data[at:at + 1], data[at]))
            ids.append(number)
            at += len(piece)
        return ids


def model(context, continuation, window):
    """(log-likelihood, greedy, cut): eighths, so that many choices tie and no sum rounds."""
    cut = max(0, len(context) + len(continuation) - (window + 1))
    h = fnv(context[cut:] + [0xFFFFFFFF] + continuation)
    scored = len(continuation) - (0 if context else 1)
    return -(1 + scored) * (1 + h % 7) / 8, (h >> 40) % 3 != 0, cut


def split_tokens(context, continuation, case):
    tokenizer, bos = case["tokenizer"], case.get("bos", -1)
    spaces = len(context) - len(context.rstrip())
    if spaces:
        continuation, context = context[-spaces:] + continuation, context[:-spaces]
    if context == "":
        whole = tokenizer.encode(continuation)
        return ([bos] if bos >= 0 else []), whole
    head = tokenizer.encode(context)
    tail = tokenizer.encode(context + continuation)[len(head):]
    return ([bos] if case.get("add_bos") else []) + head, tail


# ---- what a line becomes: (contexts, continuations, choices, gold, subject) ------------------------------------------
def clean(text):
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def multiple_choice(context, choices, gold, subject=""):
    return [context], [" " + c for c in choices], choices, gold, subject


def hellaswag(d):
    query = d["activity_label"] + ": " + d["ctx_a"] + " " + d["ctx_b"].capitalize()
    return multiple_choice(clean(query), [clean(e) for e in d["endings"]], int(d["label"]))


def arc(d):
    c = d["choices"]
    return multiple_choice(f"Question: {d['question']}\nAnswer:", c["text"], c["label"].index(d["answerKey"]))


def openbookqa(d):
    c = d["choices"]
    return multiple_choice(d["question_stem"], c["text"], c["label"].index(d["answerKey"].lstrip()))


def piqa(d):
    return multiple_choice(f"Question: {d['goal']}\nAnswer:", [d["sol1"], d["sol2"]], d["label"])


def sciq(d):
    choices = [d["distractor1"], d["distractor2"], d["distractor3"], d["correct_answer"]]
    return multiple_choice(f"{d['support'].lstrip()}\nQuestion: {d['question']}\nAnswer:", choices, 3)


def boolq(d):
    return multiple_choice(f"{d['passage']}\nQuestion: {d['question']}?\nAnswer:", ["no", "yes"], d["label"])


def winogrande(d):
    at = d["sentence"].index("_")
    contexts = [d["sentence"][:at] + o for o in (d["option1"], d["option2"])]
    return contexts, [" " + d["sentence"][at + 1:].strip()], contexts, {"1": 0, "2": 1}[d["answer"]], ""


def lambada(d):
    words = d["text"].split(" ")
    return [" ".join(words[:-1])], [" " + words[-1]], None, 0, ""


def mmlu(d):
    lines = [d["question"].strip()] + [f"{letter}. {c}" for letter, c in zip("ABCD", d["choices"])] + ["Answer:"]
    return multiple_choice("\n".join(lines), list("ABCD"), d["answer"], d["subject"])


def own(d):
    gold = d["choices"].index(d["answer"]) if isinstance(d["answer"], str) else d["answer"]
    return multiple_choice(d["prompt"], d["choices"], gold)


def description(subject):
    return f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}.\n\n" if subject else ""


def shot(item):
    contexts, continuations, choices, gold, _ = item
    delimiter = " " if choices is None else ""  # a cloze's target brings its own space, the harness adds another
    return contexts[gold % len(contexts)] + delimiter + continuations[gold % len(continuations)] + "\n\n"


# ---- scores -----------------------------------------------------------------------------------------------------------
def first_largest(values):
    return max(range(len(values)), key=lambda i: (values[i], -i))


def mean(values):
    return sum(values) / len(values)


def stderr(values):
    m = mean(values)
    return math.sqrt(sum((v - m) ** 2 for v in values) / (len(values) - 1)) / math.sqrt(len(values))


def figures(samples, names):
    return {n: {"value": mean([s[n] for s in samples]), "stderr": stderr([s[n] for s in samples])} for n in names}


def sample_of(item, before, case):
    contexts, continuations, choices, gold, _ = item
    n = max(len(contexts), len(continuations))
    pairs = [(before + contexts[i % len(contexts)], continuations[i % len(continuations)]) for i in range(n)]
    scores = [model(*split_tokens(a, b, case), case["window"]) for a, b in pairs]
    ll = [s[0] for s in scores]
    sample = {"contexts": [before + c for c in contexts], "continuations": continuations, "log_likelihood": ll,
              "greedy": [s[1] for s in scores], "cut": max(s[2] for s in scores)}
    if choices is None:
        return sample | {"acc": int(scores[0][1])}
    sample |= {"gold": gold, "chosen": first_largest(ll), "acc": int(first_largest(ll) == gold)}
    for name, lengths in (("norm", [len(c) for c in choices]), ("bytes", [len(c.encode()) for c in choices])):
        best = first_largest([v / k if k else -math.inf for v, k in zip(ll, lengths)])
        sample |= {"chosen_" + name: best, "acc_" + name: int(best == gold)}
    return sample


def over_subjects(subjects):
    acc = [s["metrics"]["acc"] for s in subjects]
    sizes = [s["n"] for s in subjects]
    total, k = sum(sizes), len(sizes)
    pooled = sum((n - 1) * a["stderr"] ** 2 * n for n, a in zip(sizes, acc)) / (total - k)
    return {"acc": {"value": sum(a["value"] * n for n, a in zip(sizes, acc)) / total, "stderr": math.sqrt(pooled / total)},
            "acc_macro": {"value": mean([a["value"] for a in acc]),
                          "stderr": math.sqrt(sum(a["stderr"] ** 2 for a in acc)) / k}}


def result_of(case, read, names, items, shots):
    samples = []
    for item in items:
        pool = [s for s in shots if s[4] == item[4] and (shots is not items or s[:4] != item[:4])][:case.get("shots", 0)]
        samples.append(sample_of(item, description(item[4]) + "".join(map(shot, pool)), case))
    result = {"n": len(items), "metrics": figures(samples, names), "samples": samples,
              "cut_items": sum(s["cut"] > 0 for s in samples), "cut_tokens": sum(s["cut"] for s in samples)}
    if read is lambada:
        ll = [s["log_likelihood"][0] for s in samples]
        p = math.exp(-mean(ll))
        result["metrics"]["perplexity"] = {"value": p, "stderr": p * stderr(ll)}
    if read is mmlu:
        parts = {}
        for item, sample in zip(items, samples):
            parts.setdefault(item[4], []).append(sample)
        result["subjects"] = [{"subject": s, "n": len(p), "metrics": figures(p, names)} for s, p in sorted(parts.items())]
        result["metrics"] = over_subjects(result["subjects"])
    return result


# ---- data ---------------------------------------------------------------------------------------------------------------
RANDOM = random.Random(7)


def phrase(low, high, end=""):
    return " ".join(RANDOM.choice(WORDS) for _ in range(RANDOM.randint(low, high))) + end


def labelled(n):
    labels = list("ABCDE") if RANDOM.random() < 0.7 else list("12345")
    return {"text": [phrase(1, 4) for _ in range(n)], "label": labels[:n]}


def with_choices(fields, key_prefix=""):
    c = labelled(RANDOM.choice([3, 4, 5]))
    return fields | {"choices": c, "answerKey": key_prefix + RANDOM.choice(c["label"])}


MAKERS = {
    "hellaswag": lambda: {"activity_label": phrase(1, 2), "ctx_a": phrase(4, 9, RANDOM.choice([".", " "])),
                          "ctx_b": phrase(0, 3), "endings": [phrase(2, 7, RANDOM.choice([".", "  x", ""])) for _ in range(4)],
                          "label": RANDOM.choice([str, int])(RANDOM.randrange(4))},
    "arc_easy": lambda: with_choices({"question": phrase(5, 12, "?")}),
    "openbookqa": lambda: with_choices({"question_stem": phrase(3, 9, RANDOM.choice(["", " ", "\n"]))},
                                       RANDOM.choice(["", " "])),
    "piqa": lambda: {"goal": phrase(3, 8), "sol1": phrase(3, 9), "sol2": phrase(3, 9), "label": RANDOM.randrange(2)},
    "sciq": lambda: {"support": RANDOM.choice(["", " "]) + phrase(0, 9), "question": phrase(4, 8, "?"),
                     "distractor1": phrase(1, 2), "distractor2": phrase(1, 2), "distractor3": phrase(1, 2),
                     "correct_answer": phrase(1, 2)},
    "boolq": lambda: {"passage": phrase(5, 20), "question": phrase(3, 6), "label": RANDOM.randrange(2)},
    "winogrande": lambda: {"sentence": phrase(3, 6) + " _ " + phrase(3, 6, "."), "option1": phrase(1, 1), "option2": phrase(1, 2),
                           "answer": RANDOM.choice("12")},
    "lambada_openai": lambda: {"text": phrase(1, 12)},
    "mmlu": lambda: {"question": phrase(4, 9, RANDOM.choice(["?", "? ", '", he said'])),
                     "choices": [phrase(1, 3) for _ in range(4)], "answer": RANDOM.randrange(4)},
    "choices": lambda: (lambda c: {"prompt": phrase(2, 8, RANDOM.choice(["", " "])), "choices": c,
                                   "answer": RANDOM.choice([0, len(c) - 1, c[0]])})([phrase(1, 5) for _ in range(3)]),
}
NORMALISED = ["acc", "acc_norm", "acc_bytes"]
READERS = {"hellaswag": (hellaswag, NORMALISED), "arc_easy": (arc, NORMALISED), "openbookqa": (openbookqa, NORMALISED),
           "piqa": (piqa, NORMALISED), "sciq": (sciq, NORMALISED), "boolq": (boolq, ["acc"]),
           "winogrande": (winogrande, ["acc"]), "lambada_openai": (lambada, ["acc"]), "mmlu": (mmlu, ["acc"]),
           "choices": (own, NORMALISED)}
SUBJECTS = {"abstract_algebra": 7, "us_foreign_policy": 4}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=RANDOM.random() < 0.5) + "\n" for r in rows), encoding="utf-8")


def write_mmlu(folder, split, extra):
    """As published: a CSV for each subject. Returns the rows."""
    rows = []
    (folder / ("mmlu_" + split)).mkdir(exist_ok=True)
    for subject, n in SUBJECTS.items():
        part = [MAKERS["mmlu"]() | {"subject": subject} for _ in range(n + extra)]
        with open(folder / ("mmlu_" + split) / f"{subject}_{split}.csv", "w", newline="", encoding="utf-8") as f:
            csv.writer(f, lineterminator="\n").writerows(
                [d["question"]] + d["choices"] + ["ABCD"[d["answer"]]] for d in part)
        rows += part
    return rows


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    bytes_only, pieces = Tokenizer([]), Tokenizer(PIECES)
    expected = []
    for task, (read, names) in READERS.items():
        if task == "mmlu":
            path, shots_path, rows, shots = "mmlu_test", "mmlu_dev", write_mmlu(folder, "test", 0), write_mmlu(folder, "dev", -1)
        else:
            path, shots_path = task + ".jsonl", task + ".shots.jsonl"
            rows, shots = ([MAKERS[task]() for _ in range(n)] for n in (12, 4))
            shots[0] = rows[0]  # stays an example for itself: it comes from other data
            write_jsonl(folder / path, rows)
            write_jsonl(folder / shots_path, shots)
        items, examples = [read(r) for r in rows], [read(r) for r in shots]
        for case in ({"tokenizer": bytes_only, "window": 60}, {"tokenizer": pieces, "window": 60, "bos": 3},
                     {"tokenizer": pieces, "window": 200, "shots": 2, "bos": 1, "add_bos": True},
                     {"tokenizer": bytes_only, "window": 300, "bos": 1, "shots": 1, "own_shots": True}):
            options = {k: v for k, v in case.items() if k != "tokenizer"}
            expected.append({"task": task, "file": path, "shots_file": path if "own_shots" in case else shots_path,
                             "pieces": case["tokenizer"] is pieces}
                            | options | result_of(case, read, names, items, items if "own_shots" in case else examples))
    lines = ",\n".join(json.dumps(c, ensure_ascii=False) for c in expected)
    (folder / "expected.json").write_text(f'{{"pieces": {json.dumps(PIECES)}, "cases": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
