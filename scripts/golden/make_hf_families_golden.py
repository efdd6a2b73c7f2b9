#!/usr/bin/env python3
"""Makes tests/golden/hf/{deepseek,deepseek_v2,deepseek_v3,kimi_k2,gpt_oss}*: tiny checkpoints as Hugging Face has them, and
their logits.

    /usr/bin/python3 scripts/golden/make_hf_families_golden.py [OUTPUT_DIRECTORY]        (Debian's python3-numpy)

An implementation of its own in float64 from the weights as stored, after modeling_deepseek.py beside the weights of
DeepSeek-MoE, V2 and V3 and modeling_{deepseek_v2,deepseek_v3,gpt_oss}.py of transformers: one token at a time. Quantised
files are written from random codes and scales; the values are computed here from the definitions of the formats.

Each case is a directory NAME, and NAME.expected.safetensors with
    tokens I64 [T]             one sequence
    logits F64 [T, V]
    mtp_logits F64 [T-1, V]    where there is a module of multi-token prediction: of token t+2 from t and t+1
and NAME.values.safetensors for quantised cases: the tensors that an export has. Not here: the other families
(make_hf_golden.py, whose way of writing files is used).
"""
import json
import pathlib
import sys

import numpy as np

from make_hf_golden import MIN_MARGIN, NUM_TOKENS, V4, V5, rounded, stored, write_safetensors  # noqa: F401

COMMON = dict(vocab_size=31, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_experts_per_tok=2,
              rms_norm_eps=1e-6, rope_theta=1e4, tie_word_embeddings=False)
DEEPSEEK = dict(n_routed_experts=8, n_shared_experts=1, moe_intermediate_size=6, intermediate_size=14,
                first_k_dense_replace=1, norm_topk_prob=False, scoring_func="softmax", moe_layer_freq=1,
                aux_loss_alpha=0.001, seq_aux=True)
MLA = dict(kv_lora_rank=7, q_lora_rank=None, qk_nope_head_dim=5, qk_rope_head_dim=4, v_head_dim=3, num_key_value_heads=4,
           routed_scaling_factor=1.0, topk_method="greedy", n_group=1, topk_group=1)
V3 = dict(scoring_func="sigmoid", norm_topk_prob=True, topk_method="noaux_tc", q_lora_rank=6, num_nextn_predict_layers=0)
YARN = dict(beta_fast=32, beta_slow=1, factor=4, mscale=0.707, mscale_all_dim=0.707, original_max_position_embeddings=16,
            type="yarn")
GPT_OSS = dict(head_dim=6, num_key_value_heads=2, num_local_experts=5, experts_per_token=2, intermediate_size=10,
               attention_bias=True, sliding_window=4, swiglu_limit=7.0, rms_norm_eps=1e-5, rope_theta=150000.0,
               initial_context_length=16, router_aux_loss_coef=0.9,
               layer_types=["sliding_attention", "full_attention"])
GPT_YARN = dict(beta_fast=32.0, beta_slow=1.0, factor=32.0, original_max_position_embeddings=16, rope_type="yarn",
                truncate=False)
# name: (model_type, keys, rope scaling or None, spelling, experts in one tensor, dtype, number of files, quantised)
CASES = {
    "deepseek": ("deepseek", dict(DEEPSEEK, num_key_value_heads=2, n_shared_experts=2, num_hidden_layers=3), None, V4,
                 False, "F32", 1, None),
    "deepseek_v2": ("deepseek_v2", dict(DEEPSEEK, **MLA) | dict(topk_method="group_limited_greedy", n_group=4, topk_group=2,
                                                               routed_scaling_factor=1.5, n_shared_experts=2),
                    YARN, V4, False, "BF16", 2, None),
    "deepseek_v2_fused": ("deepseek_v2", dict(DEEPSEEK, **MLA) | dict(q_lora_rank=6, num_experts_per_tok=3), YARN, V5, True,
                          "F32", 1, None),
    "deepseek_v3": ("deepseek_v3", dict(DEEPSEEK, **MLA) | V3 | dict(n_group=4, topk_group=2, num_experts_per_tok=3,
                                                                     routed_scaling_factor=2.5, num_nextn_predict_layers=1),
                    YARN | dict(mscale=1.0, mscale_all_dim=1.0), V4, False, "F32", 3, None),
    "deepseek_v3_fp8": ("deepseek_v3", dict(DEEPSEEK, **MLA) | V3 | dict(rope_interleave=True), None, V4, False, "BF16", 1,
                        "fp8"),
    "kimi_k2": ("kimi_k2", dict(DEEPSEEK, **MLA) | V3 | dict(routed_scaling_factor=2.827, rope_theta=50000.0),
                YARN | dict(beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0), V4, False, "BF16", 1, None),
    "gpt_oss": ("gpt_oss", GPT_OSS, GPT_YARN, V5, True, "F32", 1, None),
    "gpt_oss_mxfp4": ("gpt_oss", dict(GPT_OSS, hidden_size=32, intermediate_size=32, num_local_experts=3,
                                      num_hidden_layers=3, layer_types=["full_attention"] + ["sliding_attention"] * 2),
                      GPT_YARN, V4, True, "BF16", 2, "mxfp4"),
}
FP8_BLOCK = (4, 5)  # divides neither


def e4m3(code):
    """Values of F8_E4M3 codes: sign, 4 bits of exponent (bias 7), 3 of fraction; the last code of each sign is no number."""
    sign, exponent, fraction = np.where(code & 128, -1.0, 1.0), code >> 3 & 15, code & 7
    value = np.where(exponent == 0, fraction / 8 * 2.0 ** -6, (1 + fraction / 8) * 2.0 ** (exponent.astype(float) - 7))
    return np.where(code & 127 == 127, np.nan, sign * value)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


class Model:
    def __init__(self, kind, keys, scaling, dtype, quantised, seed):
        self.c = {**COMMON, **keys}
        self.kind, self.scaling, self.dtype, self.quantised = kind, scaling, dtype, quantised
        self.rng, self.margin = np.random.default_rng(seed), np.inf
        self.w, self.raw = {}, {}  # values; name -> (dtype, bytes as an array) of what is stored otherwise
        self.mla = "kv_lora_rank" in self.c
        self.c.setdefault("head_dim", self.c["hidden_size"] // self.c["num_attention_heads"])
        self.num_experts = self.c.get("n_routed_experts", self.c.get("num_local_experts"))
        self.make_weights()

    # ---- weights

    def matrix(self, name, *shape):
        if self.quantised == "fp8" and name.endswith("_proj.weight"):
            return self.fp8(name, shape)
        self.w[name] = rounded(self.rng.normal(0, 0.35, shape), self.dtype)

    def norm(self, name, width):
        self.w[name] = rounded(self.rng.uniform(0.5, 1.5, width), self.dtype)

    def fp8(self, name, shape):
        codes = self.rng.integers(0, 256, shape).astype(np.uint8)
        codes[codes & 127 == 127] -= 1  # the largest, 448
        blocks = [-(-n // b) for n, b in zip(shape, FP8_BLOCK)]
        scales = (self.rng.uniform(0.5, 1.5, blocks) * 0.4 / 100).astype(np.float32)
        each = np.repeat(np.repeat(scales, FP8_BLOCK[0], 0), FP8_BLOCK[1], 1)[:shape[0], :shape[1]]
        self.w[name] = rounded(e4m3(codes).astype(np.float32) * each, self.dtype)
        self.raw[name] = ("F8_E4M3", codes)
        self.raw[name + "_scale_inv"] = ("F32", scales)

    def mxfp4(self, name, rows, cols):
        """[E, rows, cols] packed; the value is [E, cols, rows]."""
        E = self.num_experts
        codes = self.rng.integers(0, 16, (E, rows, cols)).astype(np.uint8)
        scales = self.rng.integers(122, 126, (E, rows, cols // 32)).astype(np.uint8)
        value = E2M1[codes] * np.repeat(2.0 ** (scales.astype(float) - 127), 32, -1)
        self.w[name] = rounded(value.transpose(0, 2, 1), self.dtype)
        pairs = codes.reshape(E, rows, cols // 32, 16, 2)
        self.raw[name + "_blocks"] = ("U8", pairs[..., 0] | pairs[..., 1] << 4)
        self.raw[name + "_scales"] = ("U8", scales)

    def attention_weights(self, p):
        c = self.c
        H, nq, D = c["hidden_size"], c["num_attention_heads"], c["head_dim"]
        if self.mla:
            width = c["qk_nope_head_dim"] + c["qk_rope_head_dim"]
            if c["q_lora_rank"] is None:
                self.matrix(p + "q_proj.weight", nq * width, H)
            else:
                self.matrix(p + "q_a_proj.weight", c["q_lora_rank"], H)
                self.norm(p + "q_a_layernorm.weight", c["q_lora_rank"])
                self.matrix(p + "q_b_proj.weight", nq * width, c["q_lora_rank"])
            self.matrix(p + "kv_a_proj_with_mqa.weight", c["kv_lora_rank"] + c["qk_rope_head_dim"], H)
            self.norm(p + "kv_a_layernorm.weight", c["kv_lora_rank"])
            self.matrix(p + "kv_b_proj.weight", nq * (c["qk_nope_head_dim"] + c["v_head_dim"]), c["kv_lora_rank"])
            self.matrix(p + "o_proj.weight", H, nq * c["v_head_dim"])
            return
        widths = dict(q=nq * D, k=c["num_key_value_heads"] * D, v=c["num_key_value_heads"] * D)
        for which, width in widths.items():
            self.matrix(p + f"{which}_proj.weight", width, H)
        self.matrix(p + "o_proj.weight", H, nq * D)
        if self.kind == "gpt_oss":
            for which, width in (*widths.items(), ("o", H)):
                self.matrix(p + f"{which}_proj.bias", width)
            self.matrix(p + "sinks", nq)

    def swiglu_weights(self, p, width):
        H = self.c["hidden_size"]
        self.matrix(p + "gate_proj.weight", width, H)
        self.matrix(p + "up_proj.weight", width, H)
        self.matrix(p + "down_proj.weight", H, width)

    def gpt_oss_experts(self, p):
        H, W, E = self.c["hidden_size"], self.c["intermediate_size"], self.num_experts
        self.matrix(p + "router.weight", E, H)
        self.matrix(p + "router.bias", E)
        p += "experts."
        if self.quantised == "mxfp4":
            self.mxfp4(p + "gate_up_proj", 2 * W, H)
            self.mxfp4(p + "down_proj", H, W)
        else:
            self.matrix(p + "gate_up_proj", E, H, 2 * W)
            self.matrix(p + "down_proj", E, W, H)
        self.matrix(p + "gate_up_proj_bias", E, 2 * W)
        self.matrix(p + "down_proj_bias", E, H)

    def layer_weights(self, i):
        c, p = self.c, f"model.layers.{i}."
        self.norm(p + "input_layernorm.weight", c["hidden_size"])
        self.attention_weights(p + "self_attn.")
        self.norm(p + "post_attention_layernorm.weight", c["hidden_size"])
        if self.kind == "gpt_oss":
            return self.gpt_oss_experts(p + "mlp.")
        if i < c["first_k_dense_replace"]:
            return self.swiglu_weights(p + "mlp.", c["intermediate_size"])
        self.matrix(p + "mlp.gate.weight", self.num_experts, c["hidden_size"])
        if c["scoring_func"] == "sigmoid":  # fp32 whatever the weights are
            name = p + "mlp.gate.e_score_correction_bias"
            self.w[name] = self.rng.normal(0, 0.1, self.num_experts).astype(np.float32).astype(np.float64)
            self.raw[name] = ("F32", self.w[name])
        for e in range(self.num_experts):
            self.swiglu_weights(p + f"mlp.experts.{e}.", c["moe_intermediate_size"])
        self.swiglu_weights(p + "mlp.shared_experts.", c["moe_intermediate_size"] * c["n_shared_experts"])

    def make_weights(self):
        c = self.c
        H, V, L = c["hidden_size"], c["vocab_size"], c["num_hidden_layers"]
        self.matrix("model.embed_tokens.weight", V, H)
        for i in range(L):
            self.layer_weights(i)
        self.norm("model.norm.weight", H)
        self.matrix("lm_head.weight", V, H)
        for i in range(L, L + c.get("num_nextn_predict_layers", 0)):
            p = f"model.layers.{i}."
            self.w[p + "embed_tokens.weight"] = self.w["model.embed_tokens.weight"]
            self.norm(p + "enorm.weight", H)
            self.norm(p + "hnorm.weight", H)
            self.matrix(p + "eh_proj.weight", H, 2 * H)
            self.layer_weights(i)
            self.norm(p + "shared_head.norm.weight", H)
            self.w[p + "shared_head.head.weight"] = self.w["lm_head.weight"]

    # ---- mathematics

    def rms(self, x, name):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + self.c["rms_norm_eps"]) * self.w[name]

    def get_mscale(self, m):
        return 0.1 * m * np.log(self.scaling["factor"]) + 1 if self.scaling and self.scaling["factor"] > 1 else 1.0

    def frequencies(self, width):
        """Of each pair, and what cosines and sines are multiplied by."""
        base, s = self.c["rope_theta"], self.scaling
        plain = base ** -(np.arange(0, width, 2) / width)
        if s is None:
            return plain, 1.0

        def dimension_of(turns):
            return width * np.log(s["original_max_position_embeddings"] / (turns * 2 * np.pi)) / (2 * np.log(base))
        low, high = dimension_of(s["beta_fast"]), dimension_of(s["beta_slow"])
        if s.get("truncate", True):
            low, high = np.floor(low), np.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        if low == high:
            high += 0.001
        ramp = np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
        scale = self.get_mscale(s.get("mscale", 1)) / self.get_mscale(s.get("mscale_all_dim", 0))
        return plain / s["factor"] * ramp + plain * (1 - ramp), scale

    def turn(self, x, interleaved):
        """[T, heads, width]"""
        width = x.shape[-1]
        frequency, scale = self.frequencies(width)
        angle = (np.arange(len(x))[:, None] * frequency)[:, None]
        c, s = np.cos(angle) * scale, np.sin(angle) * scale
        a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :width // 2], x[..., width // 2:])
        out = np.zeros_like(x)
        first, second = a * c - b * s, a * s + b * c
        if interleaved:
            out[..., 0::2], out[..., 1::2] = first, second
        else:
            out[..., :width // 2], out[..., width // 2:] = first, second
        return out

    def heads(self, x, p):
        """Queries, keys, values, each with all heads, and the factor on scores."""
        c, n, T = self.c, self.c["num_attention_heads"], len(x)
        linear = lambda y, name: y @ self.w[p + name + ".weight"].T + self.w.get(p + name + ".bias", 0)  # noqa: E731
        if not self.mla:
            D, nk = c["head_dim"], c["num_key_value_heads"]
            q = self.turn(linear(x, "q_proj").reshape(T, n, D), False)
            k = self.turn(linear(x, "k_proj").reshape(T, nk, D), False)
            v = linear(x, "v_proj").reshape(T, nk, D)
            return q, np.repeat(k, n // nk, 1), np.repeat(v, n // nk, 1), D ** -0.5
        nope, R, C = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["kv_lora_rank"]
        if c["q_lora_rank"] is None:
            q = linear(x, "q_proj")
        else:
            q = linear(self.rms(linear(x, "q_a_proj"), p + "q_a_layernorm.weight"), "q_b_proj")
        q = q.reshape(T, n, nope + R)
        kv = linear(x, "kv_a_proj_with_mqa")
        k_rope = self.turn(kv[:, None, C:], True)
        kv = linear(self.rms(kv[:, :C], p + "kv_a_layernorm.weight"), "kv_b_proj").reshape(T, n, nope + c["v_head_dim"])
        q = np.concatenate([q[..., :nope], self.turn(q[..., nope:], True)], -1)
        k = np.concatenate([kv[..., :nope], np.repeat(k_rope, n, 1)], -1)
        scale = (nope + R) ** -0.5
        if self.scaling and self.scaling.get("mscale_all_dim"):
            scale *= self.get_mscale(self.scaling["mscale_all_dim"]) ** 2
        return q, k, kv[..., nope:], scale

    def attention(self, x, i):
        p = f"model.layers.{i}.self_attn."
        q, k, v, scale = self.heads(x, p)
        sliding = self.kind == "gpt_oss" and self.c["layer_types"][i] == "sliding_attention"
        out = np.zeros((len(x), q.shape[1], v.shape[-1]))
        for h in range(q.shape[1]):
            for t in range(len(x)):
                first = max(0, t + 1 - self.c["sliding_window"]) if sliding else 0
                s = k[first:t + 1, h] @ q[t, h] * scale
                if self.kind == "gpt_oss":
                    s = np.append(s, self.w[p + "sinks"][h])
                s = np.exp(s - s.max())
                s /= s.sum()
                out[t, h] = s[:t + 1 - first] @ v[first:t + 1, h]
        return out.reshape(len(x), -1) @ self.w[p + "o_proj.weight"].T + self.w.get(p + "o_proj.bias", 0)

    def best(self, score, count):
        order = np.argsort(-score)
        if count < len(score):
            self.margin = min(self.margin, score[order[count - 1]] - score[order[count]])
        return order[:count]

    def swiglu(self, x, p):
        gate = x @ self.w[p + "gate_proj.weight"].T
        return (gate / (1 + np.exp(-gate)) * (x @ self.w[p + "up_proj.weight"].T)) @ self.w[p + "down_proj.weight"].T

    def deepseek_gates(self, x, p):
        """Chosen experts and their gates of one token."""
        c = self.c
        logits = self.w[p + "gate.weight"] @ x
        if c["scoring_func"] == "sigmoid":
            score = 1 / (1 + np.exp(-logits))
            choice = score + self.w[p + "gate.e_score_correction_bias"]
        else:
            score = np.exp(logits - logits.max())
            choice = score = score / score.sum()
        groups = c.get("n_group", 1)
        if c.get("topk_method", "greedy") != "greedy" and groups > 1:
            of_group = np.sort(choice.reshape(groups, -1), -1)
            of_group = of_group[:, -2:].sum(-1) if c["topk_method"] == "noaux_tc" else of_group[:, -1]
            kept = np.repeat(np.isin(np.arange(groups), self.best(of_group, c["topk_group"])), len(choice) // groups)
            choice = np.where(kept, choice, 0.0)
        chosen = self.best(choice, c["num_experts_per_tok"])
        gate = score[chosen]
        if c["norm_topk_prob"]:
            gate = gate / (gate.sum() + 1e-20)
        return chosen, gate * c.get("routed_scaling_factor", 1.0)

    def gpt_oss_mlp(self, x, p):
        logits = self.w[p + "router.weight"] @ x + self.w[p + "router.bias"]
        chosen = self.best(logits, self.c["num_experts_per_tok"])
        gate = np.exp(logits[chosen] - logits[chosen].max())
        out, limit = np.zeros_like(x), self.c["swiglu_limit"]
        for e, g in zip(chosen, gate / gate.sum()):
            h = x @ self.w[p + "experts.gate_up_proj"][e] + self.w[p + "experts.gate_up_proj_bias"][e]
            a, b = np.minimum(h[0::2], limit), np.clip(h[1::2], -limit, limit)
            h = (b + 1) * a / (1 + np.exp(-1.702 * a))
            out += g * (h @ self.w[p + "experts.down_proj"][e] + self.w[p + "experts.down_proj_bias"][e])
        return out

    def mlp(self, x, i):
        p = f"model.layers.{i}.mlp."
        if self.kind == "gpt_oss":
            return np.stack([self.gpt_oss_mlp(row, p) for row in x])
        if i < self.c["first_k_dense_replace"]:
            return self.swiglu(x, p)
        out = self.swiglu(x, p + "shared_experts.")
        for t in range(len(x)):
            for e, g in zip(*self.deepseek_gates(x[t], p)):
                out[t] += g * self.swiglu(x[t], p + f"experts.{e}.")
        return out

    def layer(self, x, i):
        p = f"model.layers.{i}."
        x = x + self.attention(self.rms(x, p + "input_layernorm.weight"), i)
        return x + self.mlp(self.rms(x, p + "post_attention_layernorm.weight"), i)

    def outputs(self, tokens):
        L, embedding = self.c["num_hidden_layers"], self.w["model.embed_tokens.weight"]
        x = embedding[tokens]
        for i in range(L):
            x = self.layer(x, i)
        h = self.rms(x, "model.norm.weight")
        out = dict(logits=h @ self.w["lm_head.weight"].T)
        if self.c.get("num_nextn_predict_layers", 0):
            p = f"model.layers.{L}."
            both = [self.rms(embedding[tokens[1:]], p + "enorm.weight"), self.rms(h[:-1], p + "hnorm.weight")]
            x = self.layer(np.concatenate(both, -1) @ self.w[p + "eh_proj.weight"].T, L)
            out["mtp_logits"] = self.rms(x, p + "shared_head.norm.weight") @ self.w["lm_head.weight"].T
        return out

    # ---- files

    def values(self, fused):
        """name -> (dtype, array) without quantisation."""
        out = {}
        for name, w in self.w.items():
            is_expert = fused and self.kind != "gpt_oss" and ".experts." in name
            if not is_expert:
                out[name] = self.raw[name] if name.endswith("correction_bias") else (self.dtype, w)
        for i in range(self.c["num_hidden_layers"]):
            block = f"model.layers.{i}.mlp.experts."
            if not fused or self.kind == "gpt_oss" or block + "0.up_proj.weight" not in self.w:
                continue
            each = [block + f"{e}." for e in range(self.num_experts)]
            gate_up = [np.concatenate([self.w[e + "gate_proj.weight"], self.w[e + "up_proj.weight"]]) for e in each]
            out[block + "gate_up_proj"] = (self.dtype, np.stack(gate_up))
            out[block + "down_proj"] = (self.dtype, np.stack([self.w[e + "down_proj.weight"] for e in each]))
        return out

    def on_disk(self, fused):
        out = self.values(fused)
        for name in [n for n in out if n + "_blocks" in self.raw]:
            del out[name]
        return out | self.raw

    def config(self, spelling):
        torch = {"F32": "float32", "BF16": "bfloat16"}[self.dtype]
        out = dict(architectures=["Any"], model_type=self.kind, hidden_act="silu", use_cache=True, bos_token_id=1,
                   eos_token_id=2, initializer_range=0.02, max_position_embeddings=64, attention_dropout=0.0,
                   attention_bias=False) | self.c
        if self.kind != "gpt_oss":
            del out["head_dim"]
        if self.quantised == "fp8":
            out["quantization_config"] = dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8",
                                              weight_block_size=list(FP8_BLOCK))
        if self.quantised == "mxfp4":
            out["quantization_config"] = dict(modules_to_not_convert=["lm_head"], quant_method="mxfp4")
        if self.scaling and self.kind == "gpt_oss":
            out["max_position_embeddings"] = 512
        if spelling == V4:
            return out | dict(rope_scaling=self.scaling, torch_dtype=torch)
        rope = dict(self.scaling or {}, rope_theta=out.pop("rope_theta"))
        rope["rope_type"] = rope.pop("type", rope.get("rope_type", "default"))
        return out | dict(rope_parameters=rope, dtype=torch)


def write_case(directory, name):
    kind, keys, scaling, spelling, fused, dtype, num_files, quantised = CASES[name]
    for seed in range(1000):
        model = Model(kind, keys, scaling, dtype, quantised, seed)
        tokens = np.random.default_rng(seed).integers(0, model.c["vocab_size"], NUM_TOKENS)
        outputs = model.outputs(tokens)
        if model.margin >= MIN_MARGIN:
            break
    out = directory / name
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(model.config(spelling), indent=2) + "\n")
    tensors = list(model.on_disk(fused).items())
    weight_map, total = {}, 0
    for f in range(num_files):
        file = "model.safetensors" if num_files == 1 else f"model-{f + 1:05}-of-{num_files:05}.safetensors"
        part = dict(tensors[len(tensors) * f // num_files:len(tensors) * (f + 1) // num_files])
        write_safetensors(out / file, part)
        weight_map.update({n: file for n in part})
        total += sum(len(stored(w, t)) for t, w in part.values())
    if num_files > 1:
        index = dict(metadata=dict(total_size=total), weight_map=weight_map)
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    expected = dict(tokens=("I64", tokens)) | {n: ("F64", v) for n, v in outputs.items()}
    write_safetensors(directory / f"{name}.expected.safetensors", expected)
    if quantised:
        write_safetensors(directory / f"{name}.values.safetensors", model.values(fused))
    largest = np.abs(outputs["logits"]).max()
    print(f"{name}: seed {seed}, margin {model.margin:.4f}, largest logit {largest:.3f}")


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "tests" / "golden" / "hf"
    for name in CASES:
        write_case(directory, name)


if __name__ == "__main__":
    main()
