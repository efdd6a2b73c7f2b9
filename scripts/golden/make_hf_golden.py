#!/usr/bin/env python3
"""Makes tests/golden/hf/*: tiny Mixtral, Qwen3-MoE and OLMoE checkpoints as Hugging Face writes them, and their logits.

    /usr/bin/python3 scripts/golden/make_hf_golden.py [OUTPUT_DIRECTORY]        (Debian's python3-numpy)

An implementation of its own, written after modeling_mixtral.py, modeling_qwen3_moe.py and modeling_olmoe.py of transformers
(one matrix per projection and expert, one token at a time through the experts), in float64 from the weights as stored. It
shares no code with this program; neither does the safetensors writer, which follows the README of the format. Tests only
read the files; nobody needs Python.

Each case is a directory NAME with config.json and safetensors files, and NAME.expected.safetensors with
    tokens I64 [T]        one sequence
    logits F64 [T, V]
Not here: DeepSeek's families and gpt-oss (make_hf_families_golden.py), gradients and training (make_golden.py).
"""
import json
import pathlib
import struct
import sys

import numpy as np

NUM_TOKENS = 13
MIN_MARGIN = 1e-3  # between the last expert chosen and the first that is not; else float32 might choose another

V4, V5 = 4, 5  # spelling of the keys of config.json
COMMON = dict(vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
              num_experts=5, num_experts_per_tok=2, width=10, rms_norm_eps=1e-5, rope_theta=1e4, tie_word_embeddings=False)
# name: (model_type, differences from COMMON, spelling, experts in one tensor, dtype, number of files)
CASES = {
    "mixtral": ("mixtral", dict(rope_theta=1e6), V4, False, "F32", 1),
    "mixtral_fused": ("mixtral", dict(head_dim=6, num_experts=4, rope_theta=1e6), V5, True, "BF16", 2),
    "qwen3_moe": ("qwen3_moe", dict(head_dim=6, norm_topk_prob=False, num_experts_per_tok=3, rms_norm_eps=1e-6,
                                    num_hidden_layers=3, dense=[0], dense_width=14), V4, False, "F32", 3),
    "qwen3_moe_fused": ("qwen3_moe", dict(head_dim=10, norm_topk_prob=True, num_key_value_heads=1, rope_theta=1e6,
                                          tie_word_embeddings=True, rms_norm_eps=1e-6), V5, True, "F32", 1),
    "olmoe": ("olmoe", dict(norm_topk_prob=False, num_key_value_heads=4, num_experts=7, num_experts_per_tok=3), V4, False,
              "F16", 1),
    "olmoe_fused": ("olmoe", dict(norm_topk_prob=True, num_key_value_heads=2), V5, True, "BF16", 1),
}


def rounded(values, dtype):
    """The nearest values that the dtype holds, ties to even, as float64."""
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float64)
    single = values.astype(np.float32)
    if dtype == "BF16":
        bits = single.view(np.uint32).astype(np.uint64)
        bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000
        single = bits.astype(np.uint32).view(np.float32)
    return single.astype(np.float64)


def stored(values, dtype):
    if dtype == "BF16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
    types = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I64": "<i8", "U8": "u1", "F8_E4M3": "u1"}  # the last: as codes
    return values.astype(types[dtype]).tobytes()


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, array)"""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, values) in tensors.items():
        raw = stored(values, dtype)
        header[name] = dict(dtype=dtype, shape=list(values.shape), data_offsets=[len(data), len(data) + len(raw)])
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Model:
    def __init__(self, kind, differences, dtype, seed):
        self.c = {**COMMON, "dense": [], **differences}
        self.kind, self.dtype, self.rng = kind, dtype, np.random.default_rng(seed)
        self.c.setdefault("head_dim", self.c["hidden_size"] // self.c["num_attention_heads"])
        self.w, self.margin = {}, np.inf
        self.make_weights()

    def matrix(self, name, *shape):
        self.w[name] = rounded(self.rng.normal(0, 0.35, shape), self.dtype)

    def norm(self, name, width):
        self.w[name] = rounded(self.rng.uniform(0.5, 1.5, width), self.dtype)

    def make_weights(self):
        c = self.c
        H, D, nq, nk, V = (c[k] for k in ("hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads", "vocab_size"))
        self.matrix("model.embed_tokens.weight", V, H)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            self.norm(p + "input_layernorm.weight", H)
            self.matrix(p + "self_attn.q_proj.weight", nq * D, H)
            self.matrix(p + "self_attn.k_proj.weight", nk * D, H)
            self.matrix(p + "self_attn.v_proj.weight", nk * D, H)
            self.matrix(p + "self_attn.o_proj.weight", H, nq * D)
            if self.kind == "qwen3_moe":
                self.norm(p + "self_attn.q_norm.weight", D)
                self.norm(p + "self_attn.k_norm.weight", D)
            if self.kind == "olmoe":
                self.norm(p + "self_attn.q_norm.weight", nq * D)
                self.norm(p + "self_attn.k_norm.weight", nk * D)
            self.norm(p + "post_attention_layernorm.weight", H)
            if i in c["dense"]:
                self.swiglu_weights(p + "mlp.", ("gate_proj", "up_proj", "down_proj"), c["dense_width"])
                continue
            mixtral = self.kind == "mixtral"
            block = p + ("block_sparse_moe." if mixtral else "mlp.")
            self.matrix(block + "gate.weight", c["num_experts"], H)
            for e in range(c["num_experts"]):
                names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
                self.swiglu_weights(f"{block}experts.{e}.", names, c["width"])
        self.norm("model.norm.weight", H)
        if not c["tie_word_embeddings"]:
            self.matrix("lm_head.weight", V, H)

    def swiglu_weights(self, prefix, names, width):
        gate, up, down = names
        self.matrix(f"{prefix}{gate}.weight", width, self.c["hidden_size"])
        self.matrix(f"{prefix}{up}.weight", width, self.c["hidden_size"])
        self.matrix(f"{prefix}{down}.weight", self.c["hidden_size"], width)

    def rms(self, x, name):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.c["rms_norm_eps"]) * self.w[name]

    def swiglu(self, x, prefix, names):
        gate, up, down = (self.w[f"{prefix}{n}.weight"] for n in names)
        g = x @ gate.T
        return (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T

    def heads(self, x, p, which, count):
        """[T, H] -> [T, count, D], normalised as the family does it, and turned."""
        y = x @ self.w[p + f"self_attn.{which}_proj.weight"].T
        norm = p + f"self_attn.{which}_norm.weight"
        if self.kind == "olmoe":  # over the whole projection
            y = self.rms(y, norm)
        y = y.reshape(len(x), count, self.c["head_dim"])
        if self.kind == "qwen3_moe":  # of each head
            y = self.rms(y, norm)
        D = self.c["head_dim"]
        angle = np.arange(len(x))[:, None] * self.c["rope_theta"] ** (-np.arange(0, D, 2) / D)[None]
        angle = np.concatenate([angle, angle], -1)[:, None]
        half = np.concatenate([-y[..., D // 2:], y[..., :D // 2]], -1)
        return y * np.cos(angle) + half * np.sin(angle)

    def attention(self, x, p):
        nq, nk, D = (self.c[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        q, k = self.heads(x, p, "q", nq), self.heads(x, p, "k", nk)
        v = (x @ self.w[p + "self_attn.v_proj.weight"].T).reshape(len(x), nk, D)
        out = np.zeros((len(x), nq, D))
        for h in range(nq):
            g = h // (nq // nk)
            for t in range(len(x)):
                s = k[:t + 1, g] @ q[t, h] / np.sqrt(D)
                s = np.exp(s - s.max())
                out[t, h] = s / s.sum() @ v[:t + 1, g]
        return out.reshape(len(x), nq * D) @ self.w[p + "self_attn.o_proj.weight"].T

    def experts(self, x, p):
        mixtral = self.kind == "mixtral"
        block = p + ("block_sparse_moe." if mixtral else "mlp.")
        names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
        top_k = self.c["num_experts_per_tok"]
        y = np.zeros_like(x)
        for t in range(len(x)):
            logits = self.w[block + "gate.weight"] @ x[t]
            score = np.exp(logits - logits.max())
            score /= score.sum()
            order = np.argsort(-score)
            self.margin = min(self.margin, score[order[top_k - 1]] - score[order[top_k]])
            chosen = order[:top_k]
            gate = score[chosen]
            if mixtral or self.c["norm_topk_prob"]:
                gate = gate / gate.sum()
            for e, g in zip(chosen, gate):
                y[t] += g * self.swiglu(x[t], f"{block}experts.{e}.", names)
        return y

    def logits(self, tokens):
        x = self.w["model.embed_tokens.weight"][tokens]
        for i in range(self.c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            x = x + self.attention(self.rms(x, p + "input_layernorm.weight"), p)
            y = self.rms(x, p + "post_attention_layernorm.weight")
            dense = ("gate_proj", "up_proj", "down_proj")
            x = x + (self.swiglu(y, p + "mlp.", dense) if i in self.c["dense"] else self.experts(y, p))
        head = "model.embed_tokens.weight" if self.c["tie_word_embeddings"] else "lm_head.weight"
        return self.rms(x, "model.norm.weight") @ self.w[head].T

    def on_disk(self, fused):
        """name -> array, in the layout of transformers 4, or with the experts of a layer in two tensors."""
        if not fused:
            return dict(self.w)
        out = {n: w for n, w in self.w.items() if ".experts." not in n}
        for n in [n for n in out if "block_sparse_moe.gate" in n]:
            out[n.replace("block_sparse_moe", "mlp")] = out.pop(n)
        gate, up, down = ("w1", "w3", "w2") if self.kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
        for i in range(self.c["num_hidden_layers"]):
            if i in self.c["dense"]:
                continue
            block = f"model.layers.{i}." + ("block_sparse_moe" if self.kind == "mixtral" else "mlp") + ".experts."
            each = [f"{block}{e}." for e in range(self.c["num_experts"])]
            out[f"model.layers.{i}.mlp.experts.gate_up_proj"] = np.stack(
                [np.concatenate([self.w[f"{e}{gate}.weight"], self.w[f"{e}{up}.weight"]]) for e in each])
            out[f"model.layers.{i}.mlp.experts.down_proj"] = np.stack([self.w[f"{e}{down}.weight"] for e in each])
        return out

    def config(self, spelling):
        c, torch = self.c, {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[self.dtype]
        out = dict(architectures=["Any"], model_type=self.kind, hidden_act="silu", use_cache=True, bos_token_id=1,
                   eos_token_id=2, initializer_range=0.02, max_position_embeddings=64, transformers_version="4.57.0")
        for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                    "num_experts_per_tok", "rms_norm_eps", "tie_word_embeddings"):
            out[key] = c[key]
        if c["head_dim"] * c["num_attention_heads"] != c["hidden_size"]:
            out["head_dim"] = c["head_dim"]
        if self.kind == "qwen3_moe":
            out.update(moe_intermediate_size=c["width"], intermediate_size=c.get("dense_width", 99), decoder_sparse_step=1,
                       mlp_only_layers=c["dense"], use_sliding_window=False, sliding_window=4096, max_window_layers=28)
        else:
            out.update(intermediate_size=c["width"])
        if self.kind == "mixtral":
            out.update(sliding_window=None, router_jitter_noise=0.0)
        else:
            out.update(norm_topk_prob=c["norm_topk_prob"], attention_bias=False)
        if self.kind == "olmoe":
            out.update(clip_qkv=None)
        out["num_local_experts" if self.kind == "mixtral" or spelling == V5 else "num_experts"] = c["num_experts"]
        if spelling == V4:
            out.update(rope_theta=c["rope_theta"], rope_scaling=None, torch_dtype=torch)
        else:
            out.update(rope_parameters=dict(rope_theta=c["rope_theta"], rope_type="default"), dtype=torch)
        return out


def write_case(directory, name):
    kind, differences, spelling, fused, dtype, num_files = CASES[name]
    for seed in range(1000):
        model = Model(kind, differences, dtype, seed)
        tokens = np.random.default_rng(seed).integers(0, model.c["vocab_size"], NUM_TOKENS)
        logits = model.logits(tokens)
        if model.margin >= MIN_MARGIN:
            break
    out = directory / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(model.config(spelling), indent=2) + "\n")
    tensors = list(model.on_disk(fused).items())
    weight_map = {}
    for f in range(num_files):
        file = "model.safetensors" if num_files == 1 else f"model-{f + 1:05}-of-{num_files:05}.safetensors"
        part = tensors[len(tensors) * f // num_files:len(tensors) * (f + 1) // num_files]
        write_safetensors(out / file, {n: (dtype, w) for n, w in part})
        weight_map.update({n: file for n, _ in part})
    if num_files > 1:
        total = sum(w.size for _, w in tensors) * (4 if dtype == "F32" else 2)
        index = dict(metadata=dict(total_size=total), weight_map=weight_map)
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    write_safetensors(directory / f"{name}.expected.safetensors", dict(tokens=("I64", tokens), logits=("F64", logits)))
    print(f"{name}: seed {seed}, margin {model.margin:.4f}, largest logit {np.abs(logits).max():.3f}")


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "tests" / "golden" / "hf"
    for name in CASES:
        write_case(directory, name)


if __name__ == "__main__":
    main()
