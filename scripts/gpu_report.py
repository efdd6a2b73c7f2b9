#!/usr/bin/env python3
"""What scripts/gpu-check found: reads the folder of its results, writes one JSON file and a table, judges the criteria.

    scripts/gpu_report.py RESULTS --out FILE [--seconds N]

A criterion is met, missed or not measured. Exit code 1 unless every part ended well and every criterion is met.
Not here: the running (gpu-check).
"""
import argparse
import datetime
import json
import math
import pathlib
import sys


def read_json(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def read_text(path):
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def read_parts(results):
    parts = {}
    for path in sorted(results.glob("*.part")):
        code, seconds, limit = (int(word) for word in path.read_text().split())
        parts[path.stem] = {"exit_code": code, "seconds": seconds, "limit": limit, "timed_out": code in (124, 137)}
        if code != 0:  # why, for who has this file alone
            parts[path.stem]["last_lines"] = read_text(path.with_suffix(".log")).splitlines()[-20:]
    return parts


def losses_of(path):
    lines = read_text(path).splitlines()
    return [json.loads(line)["loss"] for line in lines if '"loss"' in line]


def largest_difference(a, b):
    """None where there is nothing to compare; not-a-number stays."""
    if not a or len(a) != len(b):
        return None
    differences = [abs(x - y) for x, y in zip(a, b)]
    return math.nan if any(math.isnan(d) for d in differences) else max(differences)


class Criteria:
    def __init__(self):
        self.list = []

    def add(self, name, found, wanted, met):
        if found is None:
            met = None
        self.list.append({"name": name, "found": found, "wanted": wanted, "met": met})

    def at_least(self, name, found, least):
        self.add(name, found, f">= {least:g}", found is not None and found >= least)

    def at_most(self, name, found, most):
        self.add(name, found, f"<= {most:g}", found is not None and found <= most)


def judge_losses(results, criteria):
    figures = {}
    for dtype, tolerance in (("fp32", 1e-4), ("bf16", 2e-2)):
        cpu, cuda, again = (losses_of(results / f"{n}-{dtype}{s}.jsonl")
                            for n, s in (("cpu", ""), ("cuda", ""), ("cuda", "-again")))
        figures[dtype] = {"cpu": cpu, "cuda": cuda}
        criteria.at_most(f"ten steps, {dtype}: CPU and CUDA", largest_difference(cpu, cuda), tolerance)
        criteria.at_most(f"ten steps, {dtype}: CUDA twice", largest_difference(cuda, again), 0)
    ranks = losses_of(results / "cuda-fp32-ranks.jsonl")
    figures["ranks"] = ranks
    criteria.at_most("four ranks on one GPU", largest_difference(losses_of(results / "cuda-fp32.jsonl"), ranks), 1e-4)
    return figures


def judge_ranks(results, criteria):
    """Of each command of four ranks on one GPU all rows, which must have passed their checks."""
    benches = {n: read_json(results / f"ranks-{n}.json") for n in ("dispatch", "collectives")}
    for name, bench in benches.items():
        rows = (bench or {}).get("rows")
        failed = sum(1 for row in rows if not row["passed"]) if rows else None
        criteria.at_most(f"four ranks on one GPU: {name}, rows that failed", failed, 0)
    return benches


def rows_of(bench):
    """Rows that count: of one name the one of most work. A row that gave an error has none, and may be that one."""
    best = {}
    for row in (bench or {}).get("rows", []):
        if row["name"] not in best or row.get("work", math.inf) > best[row["name"]].get("work", math.inf):
            best[row["name"]] = row
    return best


def judge_kernels(results, criteria):
    benches = {n: read_json(results / f"kernels-{n}.json") for n in ("olmoe", "qwen3", "others", "fp32")}
    for model in ("olmoe", "qwen3"):
        rows = rows_of(benches[model])
        percent = lambda name: rows.get(name, {}).get("percent_of_peak")
        for weight in ("gate_up", "down"):
            for direction in ("forward", "backward_input", "backward_weight"):
                for load in ("balanced", "zipf"):
                    name = f"grouped/{weight}/{direction}/{load}"
                    criteria.at_least(f"{model} {name}, % of GEMM", percent(name), 80)
        for name in ("permute/gather", "permute/combine"):
            criteria.at_least(f"{model} {name}, % of copy", percent(name), 80)
        for name, least in (("attention/forward", 60), ("attention/backward", 50)):
            criteria.at_least(f"{model} {name}, % of GEMM", percent(name), least)
    return benches


def judge_step(results, peer, criteria):
    step = read_json(results / "step.json") or {}
    criteria.at_least("step of OLMoE, % model-FLOP utilisation", step.get("percent_of_gemm_peak_causal"), 50)
    theirs = ((peer or {}).get("block") or {}).get("model_tflops")
    ours = step.get("gflops_causal")
    ratio = ours * 1e-3 / theirs if ours and theirs else None
    criteria.at_least("step, model FLOP/s over PyTorch's", ratio, 1)
    return step


def table(report):
    lines = [f"gpu-check of {report['commit'][:12]} on {report['device'] or 'no device'}, {report['date']}", ""]
    for name, part in report["parts"].items():
        state = "ok" if part["exit_code"] == 0 else "TIME OVER" if part["timed_out"] else \
            "LEFT OUT" if part["exit_code"] == 125 else f"FAILED ({part['exit_code']})"
        lines.append(f"{name:<34} {state:<12} {part['seconds']:>4} s of {part['limit']}")
    for name, bench in report["kernels"].items():
        if not bench:
            continue
        peaks = bench["peaks"]
        lines += ["", f"{name}: {peaks['gemm_dtype']} GEMM {peaks['gemm_size']}^3 {1e-3 * peaks['gemm_gflops']:.1f} TFLOP/s, "
                      f"copy {peaks['copy_gbytes_per_s']:.0f} GB/s{'' if bench.get('complete', True) else ' (not all rows)'}"]
        for row in bench["rows"]:
            figures = f"FAILED {row.get('why', 'its check')}"
            if row["passed"]:
                figures = f"{row['us']['median']:>10.1f} us {row['rate']:>9.1f} {row['unit']:<8} {row['percent_of_peak']:>6.1f} %"
            lines.append(f"  {row['name']:<40} {row['shape']:<28} {figures}")
    step = report["step"]
    if step.get("tokens_per_second"):
        lines += ["", f"step: {step['layers']} layers, {step['tokens_per_second']:.0f} tokens/s, {1e-3 * step['gflops_causal']:.1f} "
                      f"TFLOP/s, {step['percent_of_gemm_peak_causal']:.1f} % of the GEMM"]
    for row in (report["ranks"]["dispatch"] or {}).get("rows", []):
        figures = f"{row['dispatch_us']['median']:.0f} + {row['combine_us']['median']:.0f} us, {row['rank_gbytes_per_s']:.2f} GB/s a rank" \
            if row["passed"] else "FAILED"
        lines += ["", f"four ranks, rows there and back, {row['workload']} {row['dispatch']}: {figures}"]
    largest = {row["name"]: row for row in (report["ranks"]["collectives"] or {}).get("rows", []) if row["bytes"] > 8}
    for row in largest.values():  # sizes ascend
        figures = f"{row['us']['median']:.0f} us, bus {row['busbw_gbytes_per_s']:.2f} GB/s" if row["passed"] else "FAILED"
        lines += [f"four ranks, {row['name']} of {row['bytes']} bytes: {figures}"]
    for row in report["generate"].get("batches", []):
        rate = f"{row['decode_tokens_per_second']:.0f} tokens/s, {row['percent_of_limit']:.1f} % of reading the weights" \
            if "percent_of_limit" in row else "FAILED"
        lines += ["", f"generate, batch {row['batch']}: {rate}"]
    lines.append("")
    for c in report["criteria"]:
        found = "not measured" if c["found"] is None else f"{c['found']:.4g}"
        lines.append(f"{c['name']:<58} {found:>12} {c['wanted']:>10}  "
                     f"{'met' if c['met'] else 'open' if c['met'] is None else 'MISSED'}")
    return "\n".join(lines)


def without_nan(value):
    """JSON has no not-a-number."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    return [without_nan(v) for v in value] if isinstance(value, list) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=int, default=0)
    arguments = parser.parse_args()
    results = arguments.results
    device = [field.strip() for field in read_text(results / "device").split(",")]
    criteria, parts, peer = Criteria(), read_parts(results), read_json(results / "peer.json")
    report = {
        "kind": "gpu-check", "schema_version": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": read_text(results / "commit") or "unknown", "device": device[0],
        "driver": device[1] if len(device) > 1 else "", "memory": device[2] if len(device) > 2 else "",
        "nvcc": read_text(results / "nvcc"), "seconds": arguments.seconds, "parts": parts,
        "losses": judge_losses(results, criteria), "ranks": judge_ranks(results, criteria), "kernels": judge_kernels(results, criteria),
        "step": judge_step(results, peer, criteria), "generate": read_json(results / "generate.json") or {}, "peer": peer or {},
    }
    tests = parts.get("tests")
    criteria.at_most("exit code of the tests labelled cuda", tests and tests["exit_code"], 0)
    checks = [p["exit_code"] for n, p in parts.items() if n.startswith("sanitizer-")]
    criteria.at_most("compute-sanitizer, worst exit code", max(checks) if checks else None, 0)
    report["criteria"] = criteria.list
    failed = [n for n, p in parts.items() if p["exit_code"] != 0]
    report["passed"] = bool(parts) and not failed and all(c["met"] for c in criteria.list)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(without_nan(report), indent=1) + "\n")
    print(table(report))
    met = sum(1 for c in criteria.list if c["met"])
    print(f"\n{met} of {len(criteria.list)} criteria met, {len(failed)} of {len(parts)} parts failed; {arguments.out}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
