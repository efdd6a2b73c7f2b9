#!/usr/bin/env python3
"""Makes tests/golden/*.golden: what an independent framework says about tiny models of every kind we train.

    /usr/bin/python3 scripts/golden/make_golden.py [OUTPUT_DIRECTORY]        (Debian's python3-torch)

The models below are PyTorch modules in the manner of Hugging Face transformers (separate q/k/v projections, one module
per expert, autograd). They share no code with tests/reference.cpp. Initial values are rounded to float32; all else is
computed in float64, so that the files are a truth for any precision. Tests only read the files; nobody needs Python.

The file (tests/golden.cpp reads it): lines of text, then raw little-endian data.
    moe-golden 1
    set KEY VALUE                            model.* = fields of ModelConfig, loss.* = coefficients, train.* and data.*
    tensor NAME f32|f64|i32 DIM...           data follow in the order of these lines, without gaps
    end
Tensors:
    tokens targets [B, S], doc_start [B, S] (only with documents), router_bias/NAME [E] (only with bias)
    weight/NAME, grad/NAME                   in our names and shapes (make_golden.export)
    logits [B, S, V]; loss/total cross_entropy aux seq_aux z [1], each with its coefficient; counts/LAYER [E]
    step/tokens targets doc_start [10, B, S], step/loss cross_entropy grad_norm [10], step/router_bias/NAME [10, E]
Step 0 uses the batch of the gradients; losses and norms are those before the update, biases those after it.
A training step is torch's clip_grad_norm_ (factor min(1, bound / (norm + 1e-6))), torch's AdamW with decay of matrices
(neither norm weights nor biases nor sinks), then bias += speed * sign(mean count - count).
With multi-token prediction (model.num_mtp_layers): module k is block num_layers + k; loss/mtp.K its cross-entropy without a
coefficient, loss/mtp all of them with the weight loss.mtp / modules.
"""
import math
import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

NUM_STEPS = 10
GPT_OSS_ALPHA = float(np.float32(1.702))  # what a float32 kernel holds
# Choices closer than this would make a test of a float32 model depend on rounding: another seed is taken.
MIN_MARGIN = 2e-4

COMMON = dict(
    vocab_size=32, num_layers=2, d_model=16, num_heads=4, num_kv_heads=4, head_dim=4, rope_theta=1e4, norm_eps=1e-5,
    qk_norm="none", num_dense_layers=0, dense_ffn=0, num_experts=8, top_k=2, expert_ffn=8, num_shared_experts=0,
    router_score="softmax", router_renormalize=True, router_scale=1.0, num_expert_groups=1, num_groups_kept=1,
    group_score="top2sum", router_bias=False, tied_embeddings=False)
NO_LOSS = dict(aux=0.0, seq_aux=0.0, z=0.0)
MTP_WEIGHT = 0.3

LATENT = dict(attention="mla", kv_lora_rank=6, qk_nope_head_dim=5, qk_rope_head_dim=8, v_head_dim=7, rope_interleaved=True,
              rope_factor=1.0, rope_original_length=4096, rope_beta_fast=32.0, rope_beta_slow=1.0, rope_mscale=1.0,
              rope_mscale_all_dim=0.0, num_dense_layers=1, dense_ffn=11, num_shared_experts=1, norm_eps=1e-6)

GPT_OSS = dict(attention_bias=True, attention_sinks=True, router_logit_bias=True, expert_bias=True, sliding_window=4,
               layer_types="sliding,full", swiglu_limit=1.5, rope_factor=4.0, rope_original_length=8, rope_beta_fast=2.0,
               rope_beta_slow=0.2, rope_truncate=False)

# name: (model, losses, (sequences, length), packed documents)
CONFIGS = {
    "mixtral": (dict(num_kv_heads=2, num_experts=4, expert_ffn=12, rope_theta=1e6), dict(aux=0.02), (2, 8), False),
    "olmoe": (dict(qk_norm="full", num_heads=3, num_kv_heads=3, head_dim=6, num_experts=8, top_k=3, router_renormalize=False,
                   vocab_size=29), dict(aux=0.01, z=0.001), (2, 8), False),
    "qwen3": (dict(qk_norm="head", d_model=20, num_heads=4, num_kv_heads=1, head_dim=6, norm_eps=1e-6, rope_theta=1e6,
                   num_experts=6), dict(), (3, 7), False),
    "deepseek_v3": (dict(num_layers=3, num_dense_layers=1, dense_ffn=12, num_shared_experts=1, router_score="sigmoid",
                         router_bias=True, top_k=3, num_expert_groups=4, num_groups_kept=2, router_scale=2.5,
                         norm_eps=1e-6), dict(seq_aux=0.01), (2, 8), False),
    "deepseek_v2": (dict(num_dense_layers=1, dense_ffn=10, num_shared_experts=2, expert_ffn=7, num_experts=9, top_k=2,
                         num_expert_groups=3, num_groups_kept=1, group_score="max", router_renormalize=False,
                         router_scale=4.0, norm_eps=1e-6), dict(seq_aux=0.01), (2, 8), False),
    "tied": (dict(tied_embeddings=True, num_experts=5, top_k=1, router_renormalize=False, vocab_size=23), dict(), (2, 8),
             False),
    "documents": (dict(num_kv_heads=2, num_experts=4, vocab_size=17), dict(), (2, 11), True),
    # Latent attention as in DeepSeek-V2-Lite (plain queries, YaRN) and in DeepSeek-V3 (compressed queries).
    "latent_v2": (dict(LATENT, q_lora_rank=0, rope_factor=4.0, rope_original_length=8, rope_beta_fast=2.0,
                       rope_beta_slow=0.2, rope_mscale=0.9, rope_mscale_all_dim=0.707), dict(), (2, 12), False),
    "latent_v3": (dict(LATENT, q_lora_rank=7, router_score="sigmoid", router_bias=True, router_scale=2.5),
                  dict(seq_aux=0.01), (2, 9), True),
    # Its layers take turns: sliding, full, sliding. The limit cuts some values of SwiGLU.
    "gpt_oss": (dict(GPT_OSS, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=6, num_experts=6, expert_ffn=9,
                     rope_theta=1000.0), dict(aux=0.02), (2, 11), True),
    # Multi-token prediction as in DeepSeek-V3's report, 2.2, one module and two.
    "mtp": (dict(LATENT, q_lora_rank=7, router_score="sigmoid", router_bias=True, router_scale=2.5, num_mtp_layers=1),
            dict(seq_aux=0.01), (2, 9), False),
    "mtp_documents": (dict(tied_embeddings=True, num_experts=5, vocab_size=23, num_mtp_layers=2), dict(aux=0.02), (2, 12),
                      True),
    "losses": (dict(num_layers=3, num_experts=6, router_score="sigmoid", d_model=12, num_heads=2, num_kv_heads=2),
               dict(aux=0.3, seq_aux=0.2, z=0.05), (3, 6), False),
}
TRAIN = dict(lr=0.01, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, max_grad_norm=1.0, bias_update_speed=0.02)
# Norms of these lie on both sides of the bound, so that both branches of clipping are taken; elsewhere all are above 1.
MAX_GRAD_NORM = {"mixtral": 3.0, "documents": 3.0}


def rounded(value):
    """What a float32 field of the program holds."""
    return float(np.float32(value))


class Config:
    def __init__(self, **fields):
        for key, value in fields.items():
            setattr(self, key, rounded(value) if type(value) is float else value)
        self.fields = dict(vars(self))


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rotate_half(x):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def apply_rotary(x, theta):  # x [B, heads, S, head_dim]
    length, width = x.shape[-2:]
    inv_freq = 1.0 / (theta ** (torch.arange(0, width, 2, dtype=torch.float64) / width))
    angles = torch.outer(torch.arange(length, dtype=torch.float64), inv_freq)
    angles = torch.cat((angles, angles), dim=-1)
    return x * angles.cos() + rotate_half(x) * angles.sin()


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.q_proj = nn.Linear(c.d_model, c.num_heads * c.head_dim, bias=False)
        self.k_proj = nn.Linear(c.d_model, c.num_kv_heads * c.head_dim, bias=False)
        self.v_proj = nn.Linear(c.d_model, c.num_kv_heads * c.head_dim, bias=False)
        self.o_proj = nn.Linear(c.num_heads * c.head_dim, c.d_model, bias=False)
        if c.qk_norm != "none":
            per_head = c.qk_norm == "head"
            self.q_norm = RMSNorm(c.head_dim if per_head else c.num_heads * c.head_dim, c.norm_eps)
            self.k_norm = RMSNorm(c.head_dim if per_head else c.num_kv_heads * c.head_dim, c.norm_eps)

    def forward(self, x, mask):
        c, (B, S, _) = self.c, x.shape
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        if c.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.view(B, S, -1, c.head_dim) for t in (q, k, v))
        if c.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        q, k = apply_rotary(q, c.rope_theta), apply_rotary(k, c.rope_theta)
        k, v = (t.repeat_interleave(c.num_heads // c.num_kv_heads, dim=1) for t in (k, v))
        weights = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(c.head_dim)
        weights = weights.masked_fill(~mask[:, None], -math.inf).softmax(dim=-1)
        return self.o_proj(torch.matmul(weights, v).transpose(1, 2).reshape(B, S, -1))


def yarn_mscale(factor, mscale):
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0


def yarn_inv_freq(c, width, truncate=True):
    """As DeepseekV3YarnRotaryEmbedding."""
    base = c.rope_theta
    freq = 1.0 / (base ** (torch.arange(0, width, 2, dtype=torch.float64) / width))
    if c.rope_factor <= 1:
        return freq

    def correction_dim(rotations):
        return width * math.log(c.rope_original_length / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = correction_dim(c.rope_beta_fast), correction_dim(c.rope_beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    ramp = ((torch.arange(width // 2, dtype=torch.float64) - low) / max(high - low, 0.001)).clamp(0, 1)
    mask = 1.0 - ramp
    return freq / c.rope_factor * (1 - mask) + freq * mask


class LatentAttention(nn.Module):
    """As DeepseekV3Attention."""

    def __init__(self, c):
        super().__init__()
        self.c, self.q_width = c, c.qk_nope_head_dim + c.qk_rope_head_dim
        if c.q_lora_rank:
            self.q_a_proj = nn.Linear(c.d_model, c.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(c.q_lora_rank, c.norm_eps)
            self.q_b_proj = nn.Linear(c.q_lora_rank, c.num_heads * self.q_width, bias=False)
        else:
            self.q_proj = nn.Linear(c.d_model, c.num_heads * self.q_width, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(c.d_model, c.kv_lora_rank + c.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(c.kv_lora_rank, c.norm_eps)
        self.kv_b_proj = nn.Linear(c.kv_lora_rank, c.num_heads * (c.qk_nope_head_dim + c.v_head_dim), bias=False)
        self.o_proj = nn.Linear(c.num_heads * c.v_head_dim, c.d_model, bias=False)

    def rotary(self, x):  # [B, heads, S, rope]; neighbours become halves
        c, (B, H, S, R) = self.c, x.shape
        x = x.view(B, H, S, R // 2, 2).transpose(4, 3).reshape(B, H, S, R)
        angles = torch.outer(torch.arange(S, dtype=torch.float64), yarn_inv_freq(c, c.qk_rope_head_dim))
        angles = torch.cat((angles, angles), dim=-1)
        m = yarn_mscale(c.rope_factor, c.rope_mscale) / yarn_mscale(c.rope_factor, c.rope_mscale_all_dim)
        return x * (angles.cos() * m) + rotate_half(x) * (angles.sin() * m)

    def forward(self, x, mask):
        c, (B, S, _) = self.c, x.shape
        q = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if c.q_lora_rank else self.q_proj(x)
        q = q.view(B, S, c.num_heads, self.q_width).transpose(1, 2)
        q_nope, q_pe = torch.split(q, [c.qk_nope_head_dim, c.qk_rope_head_dim], dim=-1)
        latent, k_pe = torch.split(self.kv_a_proj_with_mqa(x), [c.kv_lora_rank, c.qk_rope_head_dim], dim=-1)
        k_pe = self.rotary(k_pe.view(B, S, 1, c.qk_rope_head_dim).transpose(1, 2))
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).view(B, S, c.num_heads, -1).transpose(1, 2)
        k_nope, v = torch.split(kv, [c.qk_nope_head_dim, c.v_head_dim], dim=-1)
        q = torch.cat((q_nope, self.rotary(q_pe)), dim=-1)
        k = torch.cat((k_nope, k_pe.expand(B, c.num_heads, S, -1)), dim=-1)
        scale = yarn_mscale(c.rope_factor, c.rope_mscale_all_dim) ** 2 / math.sqrt(self.q_width)
        weights = (torch.matmul(q, k.transpose(2, 3)) * scale).masked_fill(~mask[:, None], -math.inf).softmax(dim=-1)
        return self.o_proj(torch.matmul(weights, v).transpose(1, 2).reshape(B, S, -1))


class GptOssAttention(nn.Module):
    """As GptOssAttention with eager_attention_forward."""

    def __init__(self, c, layer_type):
        super().__init__()
        self.c, self.window = c, c.sliding_window if layer_type == "sliding" else None
        self.q_proj = nn.Linear(c.d_model, c.num_heads * c.head_dim)
        self.k_proj = nn.Linear(c.d_model, c.num_kv_heads * c.head_dim)
        self.v_proj = nn.Linear(c.d_model, c.num_kv_heads * c.head_dim)
        self.o_proj = nn.Linear(c.num_heads * c.head_dim, c.d_model)
        self.sinks = nn.Parameter(torch.empty(c.num_heads))

    def rotary(self, x):
        c, S = self.c, x.shape[2]
        freqs = torch.outer(torch.arange(S, dtype=torch.float64), yarn_inv_freq(c, c.head_dim, c.rope_truncate))
        m = yarn_mscale(c.rope_factor, 1.0)
        cos, sin = freqs.cos() * m, freqs.sin() * m
        first_half, second_half = torch.chunk(x, 2, dim=-1)
        return torch.cat((first_half * cos - second_half * sin, second_half * cos + first_half * sin), dim=-1)

    def forward(self, x, mask):
        c, (B, S, _) = self.c, x.shape
        q, k, v = (p(x).view(B, S, -1, c.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = self.rotary(q), self.rotary(k)
        k, v = (t.repeat_interleave(c.num_heads // c.num_kv_heads, dim=1) for t in (k, v))
        if self.window:
            position = torch.arange(S)
            mask = mask & (position[None, :] > position[:, None] - self.window)
        weights = torch.matmul(q, k.transpose(2, 3)) * c.head_dim ** -0.5
        weights = weights.masked_fill(~mask[:, None], -math.inf)
        sinks = self.sinks.reshape(1, -1, 1, 1).expand(B, -1, S, -1)
        combined = torch.cat([weights, sinks], dim=-1)
        combined = combined - combined.max(dim=-1, keepdim=True).values
        weights = combined.softmax(dim=-1)[..., :-1]
        return self.o_proj(torch.matmul(weights, v).transpose(1, 2).reshape(B, S, -1))


class MLP(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Margin:
    """The smallest distance between a choice that was made and the best one that was not."""

    def __init__(self):
        self.smallest = math.inf

    def top(self, values, k):
        order = values.sort(dim=-1, descending=True, stable=True)
        if k < values.shape[-1]:
            self.smallest = min(self.smallest, (order.values[..., k - 1] - order.values[..., k]).min().item())
        inside = order.values[..., :k].diff(dim=-1).abs()  # their order fixes the order of the sum over k
        if inside.numel():
            self.smallest = min(self.smallest, inside.min().item())
        return order.indices[..., :k]


class SparseMoE(nn.Module):
    def __init__(self, c, margin):
        super().__init__()
        self.c, self.margin = c, margin
        self.gate = nn.Linear(c.d_model, c.num_experts, bias=False)
        self.experts = nn.ModuleList(MLP(c.d_model, c.expert_ffn) for _ in range(c.num_experts))
        if c.num_shared_experts:
            self.shared_experts = MLP(c.d_model, c.num_shared_experts * c.expert_ffn)
        self.register_buffer("e_score_correction_bias", torch.zeros(c.num_experts))

    def select(self, scores):
        c = self.c
        choice = scores.detach() + self.e_score_correction_bias
        if c.num_expert_groups > 1:
            grouped = choice.view(-1, c.num_expert_groups, c.num_experts // c.num_expert_groups)
            group_scores = grouped.topk(2, dim=-1).values.sum(-1) if c.group_score == "top2sum" else grouped.amax(-1)
            kept = self.margin.top(group_scores, c.num_groups_kept)
            keep = torch.zeros_like(group_scores).scatter_(1, kept, 1.0).bool()
            choice = grouped.masked_fill(~keep[..., None], -math.inf).flatten(1)
        return self.margin.top(choice, c.top_k)

    def forward(self, x):  # [B, S, D]
        c, flat = self.c, x.reshape(-1, x.shape[-1])
        logits = self.gate(flat)
        scores = logits.softmax(-1) if c.router_score == "softmax" else logits.sigmoid()
        chosen = self.select(scores)
        gates = scores.gather(1, chosen)
        if c.router_renormalize:
            gates = gates / (gates.sum(-1, keepdim=True) + 1e-20)
        gates = gates * c.router_scale
        one_hot = F.one_hot(chosen, c.num_experts)  # [T, K, E]
        y = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            token, k = torch.where(one_hot[..., e] > 0)
            y = y.index_add(0, token, expert(flat[token]) * gates[token, k, None])
        if c.num_shared_experts:
            y = y + self.shared_experts(flat)
        self.counts = one_hot.sum((0, 1))
        self.losses = self.balance_losses(logits, scores, one_hot, x.shape[:2])
        return y.view_as(x)

    def balance_losses(self, logits, scores, one_hot, shape):
        """Without coefficients. Switch Transformer; DeepSeek-V3 equations 17-20; ST-MoE equation 5."""
        c, (B, S) = self.c, shape
        probabilities = scores / scores.sum(-1, keepdim=True)
        fraction = one_hot.double().sum(1).mean(0) / c.top_k
        per_sequence = scores.detach().view(B, S, -1)
        top = F.one_hot(self.margin.top(per_sequence, c.top_k), c.num_experts).double().sum(2)  # [B, S, E]
        f = c.num_experts / (c.top_k * S) * top.sum(1)
        return dict(aux=c.num_experts * (fraction * probabilities.mean(0)).sum(),
                    seq_aux=(f * probabilities.view(B, S, -1).mean(1)).sum(-1).mean(),
                    z=logits.logsumexp(-1).pow(2).mean())


class GptOssMoE(SparseMoE):
    """As GptOssTopKRouter and GptOssExperts; weights of experts are [in, out], gate and up take turns."""

    def __init__(self, c, margin):
        super().__init__(c, margin)
        E, D, Fe = c.num_experts, c.d_model, c.expert_ffn
        self.experts = None
        self.gate = nn.Linear(D, E)
        self.gate_up_proj = nn.Parameter(torch.empty(E, D, 2 * Fe))
        self.gate_up_proj_bias = nn.Parameter(torch.empty(E, 2 * Fe))
        self.down_proj = nn.Parameter(torch.empty(E, Fe, D))
        self.down_proj_bias = nn.Parameter(torch.empty(E, D))

    def expert(self, e, x):
        limit = self.c.swiglu_limit
        gate_up = x @ self.gate_up_proj[e] + self.gate_up_proj_bias[e]
        gate, up = gate_up[..., ::2], gate_up[..., 1::2]
        gate, up = gate.clamp(min=None, max=limit), up.clamp(min=-limit, max=limit)
        glu = gate * torch.sigmoid(gate * GPT_OSS_ALPHA)
        return ((up + 1) * glu) @ self.down_proj[e] + self.down_proj_bias[e]

    def forward(self, x):
        c, flat = self.c, x.reshape(-1, x.shape[-1])
        logits = self.gate(flat)
        chosen = self.margin.top(logits.detach(), c.top_k)
        gates = logits.gather(1, chosen).softmax(dim=1)
        one_hot = F.one_hot(chosen, c.num_experts)
        y = torch.zeros_like(flat)
        for e in range(c.num_experts):
            token, k = torch.where(one_hot[..., e] > 0)
            y = y.index_add(0, token, self.expert(e, flat[token]) * gates[token, k, None])
        self.counts = one_hot.sum((0, 1))
        self.losses = self.balance_losses(logits, logits.softmax(-1), one_hot, x.shape[:2])
        return y.view_as(x)


class DecoderLayer(nn.Module):
    def __init__(self, c, index, margin):
        super().__init__()
        self.input_layernorm = RMSNorm(c.d_model, c.norm_eps)
        if "swiglu_limit" in c.fields:
            types = c.layer_types.split(",")
            self.self_attn = GptOssAttention(c, types[index % len(types)])
        else:
            self.self_attn = LatentAttention(c) if "attention" in c.fields else Attention(c)
        self.post_attention_layernorm = RMSNorm(c.d_model, c.norm_eps)
        if "swiglu_limit" in c.fields:
            self.mlp = GptOssMoE(c, margin)
        else:
            self.mlp = MLP(c.d_model, c.dense_ffn) if index < c.num_dense_layers else SparseMoE(c, margin)

    def forward(self, x, mask):
        x = x + self.self_attn(self.input_layernorm(x), mask)
        return x + self.mlp(self.post_attention_layernorm(x))


def ahead(values, document, n, nothing):
    """values[i + n], where that is in the sequence and the document of i."""
    out = torch.full_like(values, nothing)
    out[:, :-n] = torch.where(document[:, n:] == document[:, :-n], values[:, n:], out[:, :-n])
    return out


class PredictionModule(nn.Module):
    """Layer 61 of DeepSeek-V3: enorm, hnorm, eh_proj (embedding first), a decoder layer, shared_head.norm."""

    def __init__(self, c, margin):
        super().__init__()
        self.enorm, self.hnorm = RMSNorm(c.d_model, c.norm_eps), RMSNorm(c.d_model, c.norm_eps)
        self.eh_proj = nn.Linear(2 * c.d_model, c.d_model, bias=False)
        self.layer = DecoderLayer(c, c.num_layers, margin)
        self.shared_head_norm = RMSNorm(c.d_model, c.norm_eps)

    def forward(self, embed_tokens, tokens, hidden, mask):  # tokens -1: none
        embedded = embed_tokens(tokens.clamp(min=0)) * (tokens >= 0)[..., None]
        x = self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(hidden)), dim=-1))
        return self.shared_head_norm(self.layer(x, mask))


class Decoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.margin = c, Margin()
        self.embed_tokens = nn.Embedding(c.vocab_size, c.d_model)
        self.layers = nn.ModuleList(DecoderLayer(c, i, self.margin) for i in range(c.num_layers))
        self.norm = RMSNorm(c.d_model, c.norm_eps)
        self.lm_head = nn.Linear(c.d_model, c.vocab_size, bias=False)
        if c.tied_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.mtp = nn.ModuleList(PredictionModule(c, self.margin) for _ in range(c.fields.get("num_mtp_layers", 0)))

    def blocks(self):
        return list(self.layers) + [module.layer for module in self.mtp]

    def moe_layers(self):
        return {i: block.mlp for i, block in enumerate(self.blocks()) if isinstance(block.mlp, SparseMoE)}

    def forward(self, batch):
        """Logits of the model and of each module."""
        tokens = batch["tokens"]
        S = tokens.shape[1]
        document = batch["document"]
        mask = torch.ones(S, S).tril().bool() & (document[:, :, None] == document[:, None, :])
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, mask)
        hidden = self.norm(x)
        logits = [self.lm_head(hidden)]
        for k, module in enumerate(self.mtp):
            hidden = module(self.embed_tokens, ahead(tokens, document, k + 1, -1), hidden, mask)
            logits.append(self.lm_head(hidden))
        return logits

    def losses(self, batch, coefficients):
        logits, *predictions = self(batch)
        terms = dict(cross_entropy=F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=-1))
        parts = {}
        for k, p in enumerate(predictions):
            targets = ahead(batch["targets"], batch["document"], k + 1, -1)
            parts[f"mtp.{k}"] = F.cross_entropy(p.flatten(0, 1), targets.flatten(), ignore_index=-1)
        if parts:
            terms["mtp"] = coefficients["mtp"] / len(parts) * sum(parts.values())
        for name, factor in coefficients.items():
            if name == "mtp":
                continue
            terms[name] = sum((factor * moe.losses[name] for moe in self.moe_layers().values()), torch.zeros(()))
        terms["total"] = sum(terms.values())
        return logits, {**terms, **parts}


def is_vector(name):
    """A bias, or the sinks of attention; of experts a row each."""
    return name.endswith(("bias", "sinks"))


def initialise(model):
    for name, p in model.named_parameters():
        fan_in = p.shape[-2] if p.dim() == 3 else p.shape[-1]
        std = 0.1 if name.endswith("norm.weight") else 1.0 if "embed" in name else 1.2 / math.sqrt(fan_in)
        if is_vector(name):
            p.data = (torch.randn(p.shape) * 0.5).float().double()
            continue
        p.data = (torch.randn(p.shape) * std + (1.0 if p.dim() == 1 else 0.0)).float().double()
    for moe in model.moe_layers().values():
        if model.c.router_bias:
            moe.e_score_correction_bias.copy_((torch.randn(model.c.num_experts) * 0.1).float().double())


def random_batch(c, shape, documents):
    B, S = shape
    tokens, targets = torch.randint(c.vocab_size, (B, S)), torch.randint(c.vocab_size, (B, S))
    starts = torch.rand(B, S) < 0.3 if documents else torch.zeros(B, S, dtype=torch.bool)
    starts[:, 0] = True
    first = torch.where(starts, torch.arange(S).expand(B, S), torch.zeros(B, S, dtype=torch.long)).cummax(dim=1).values
    if documents:  # the last token of a document has nothing to predict
        targets[:, :-1][starts[:, 1:]] = -1
    targets[0, S // 2] = -1
    return dict(tokens=tokens, targets=targets, doc_start=first, document=starts.cumsum(dim=1))


def attention_weights(a, weight, of):
    if isinstance(a, LatentAttention):
        queries = dict(q_a=a.q_a_proj, q_a_norm=a.q_a_layernorm, q_b=a.q_b_proj) if a.c.q_lora_rank else dict(q=a.q_proj)
        maps = dict(queries, kv_a=a.kv_a_proj_with_mqa, kv_a_norm=a.kv_a_layernorm, kv_b=a.kv_b_proj)
        return {name + ".weight": weight(module) for name, module in maps.items()}
    out = {"qkv.weight": torch.cat((weight(a.q_proj), weight(a.k_proj), weight(a.v_proj)))}
    if isinstance(a, GptOssAttention):
        out["qkv.bias"] = torch.cat([of(p.bias) for p in (a.q_proj, a.k_proj, a.v_proj)])
        out["o.bias"], out["sinks"] = of(a.o_proj.bias), of(a.sinks)
        return out
    if a.c.qk_norm != "none":
        out["q_norm.weight"], out["k_norm.weight"] = weight(a.q_norm), weight(a.k_norm)
    return out


def export(model, of):
    """Our names and shapes. of: what to take of each parameter, its value or its gradient."""
    def weight(module):
        return of(module.weight)

    def gate_up(mlp):
        return torch.cat((weight(mlp.gate_proj), weight(mlp.up_proj)))

    out = {"embedding.weight": weight(model.embed_tokens)}
    for k, module in enumerate(model.mtp):
        at = f"layers.{model.c.num_layers + k}.mtp."
        out[at + "embedding_norm.weight"], out[at + "hidden_norm.weight"] = weight(module.enorm), weight(module.hnorm)
        out[at + "projection.weight"], out[at + "norm.weight"] = weight(module.eh_proj), weight(module.shared_head_norm)
    for i, layer in enumerate(model.blocks()):
        a, m, at = layer.self_attn, layer.mlp, f"layers.{i}."
        out[at + "attn_norm.weight"] = weight(layer.input_layernorm)
        out.update({at + "attn." + name: w for name, w in attention_weights(a, weight, of).items()})
        out[at + "attn.o.weight"] = weight(a.o_proj)
        out[at + "ffn_norm.weight"] = weight(layer.post_attention_layernorm)
        if isinstance(m, MLP):
            out[at + "mlp.gate_up.weight"], out[at + "mlp.down.weight"] = gate_up(m), weight(m.down_proj)
            continue
        out[at + "router.weight"] = weight(m.gate)
        if isinstance(m, GptOssMoE):
            out[at + "router.bias"] = of(m.gate.bias)
            w, b = of(m.gate_up_proj), of(m.gate_up_proj_bias)
            out[at + "experts.gate_up.weight"] = torch.cat((w[..., ::2], w[..., 1::2]), -1).transpose(1, 2).contiguous()
            out[at + "experts.gate_up.bias"] = torch.cat((b[..., ::2], b[..., 1::2]), -1)[..., None]
            out[at + "experts.down.weight"] = of(m.down_proj).transpose(1, 2).contiguous()
            out[at + "experts.down.bias"] = of(m.down_proj_bias)[..., None]
            continue
        out[at + "experts.gate_up.weight"] = torch.stack([gate_up(e) for e in m.experts])
        out[at + "experts.down.weight"] = torch.stack([weight(e.down_proj) for e in m.experts])
        if model.c.num_shared_experts:
            out[at + "shared.gate_up.weight"] = gate_up(m.shared_experts)
            out[at + "shared.down.weight"] = weight(m.shared_experts.down_proj)
    out["final_norm.weight"] = weight(model.norm)
    if not model.c.tied_embeddings:
        out["head.weight"] = weight(model.lm_head)
    return out


def biases(model):
    if not model.c.router_bias:
        return {}
    return {f"layers.{i}.router.bias": moe.e_score_correction_bias.clone() for i, moe in model.moe_layers().items()}


def gradient_of(p):
    return p.grad if p.grad is not None else torch.zeros_like(p)


def first_batch(model, batch, coefficients, documents):
    """Everything about one batch at the initial weights."""
    logits, terms = model.losses(batch, coefficients)
    model.zero_grad()
    terms["total"].backward()
    t = {"tokens": batch["tokens"], "targets": batch["targets"]}
    if documents:
        t["doc_start"] = batch["doc_start"]
    t.update({"router_bias/" + name: b for name, b in biases(model).items()})
    t.update({"weight/" + name: w for name, w in export(model, lambda p: p.data).items()})
    t.update({"grad/" + name: g for name, g in export(model, gradient_of).items()})
    t["logits"] = logits
    t.update({"loss/" + name: term.reshape(1) for name, term in terms.items()})
    t.update({f"counts/{i}": moe.counts for i, moe in model.moe_layers().items()})
    return t


def train(model, batches, coefficients, documents, max_grad_norm):
    """Ten steps; changes the model."""
    def decays(name):
        return not name.endswith("norm.weight") and not is_vector(name)

    others = [p for n, p in model.named_parameters() if decays(n)]
    vectors = [p for n, p in model.named_parameters() if not decays(n)]
    groups = [dict(params=others, weight_decay=TRAIN["weight_decay"]), dict(params=vectors, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=TRAIN["lr"], betas=(TRAIN["beta1"], TRAIN["beta2"]), eps=TRAIN["eps"])
    record = {"loss": [], "cross_entropy": [], "grad_norm": []}
    for batch in batches:
        _, terms = model.losses(batch, coefficients)
        optimizer.zero_grad()
        for p in model.parameters():  # an expert without tokens still has moments that decay
            p.grad = torch.zeros_like(p)
        terms["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        for moe in model.moe_layers().values():
            if model.c.router_bias:
                counts = moe.counts.double()
                moe.e_score_correction_bias += TRAIN["bias_update_speed"] * (counts.mean() - counts).sign()
        for key, value in (("loss", terms["total"]), ("cross_entropy", terms["cross_entropy"]), ("grad_norm", norm)):
            record[key].append(value.detach())
        for name, b in biases(model).items():
            record.setdefault("router_bias/" + name, []).append(b)
    for key in ("tokens", "targets") + (("doc_start",) if documents else ()):
        record[key] = [batch[key] for batch in batches]
    return {"step/" + key: torch.stack(values) for key, values in record.items()}


def make(name, seed):
    """(header settings, tensors, smallest margin) of one configuration."""
    model_fields, loss_fields, shape, documents = CONFIGS[name]
    torch.manual_seed(seed)
    c = Config(**{**COMMON, **model_fields})
    coefficients = {key: rounded(value) for key, value in {**NO_LOSS, **loss_fields}.items()}
    if "num_mtp_layers" in model_fields:
        coefficients["mtp"] = rounded(MTP_WEIGHT)
    model = Decoder(c)
    initialise(model)
    batches = [random_batch(c, shape, documents) for _ in range(NUM_STEPS)]
    tensors = first_batch(model, batches[0], coefficients, documents)
    tensors = {key: value.detach().clone() for key, value in tensors.items()}
    training = {**TRAIN, "max_grad_norm": MAX_GRAD_NORM.get(name, TRAIN["max_grad_norm"])}
    tensors.update(train(model, batches, coefficients, documents, training["max_grad_norm"]))
    settings = {"model." + key: value for key, value in c.fields.items()}
    settings.update({"loss." + key: value for key, value in coefficients.items()})
    settings.update({"train." + key: value for key, value in training.items()})
    settings.update({"data.num_seqs": shape[0], "data.seq_len": shape[1], "data.num_steps": NUM_STEPS, "data.seed": seed})
    return settings, tensors, model.margin.smallest


def dtype_of(name, tensor):
    if not tensor.is_floating_point():
        return "i32"
    return "f64" if name.startswith(("loss/", "step/")) else "f32"


def text_of(value):
    return ("false", "true")[value] if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def write(path, settings, tensors):
    lines = ["moe-golden 1"] + [f"set {key} {text_of(value)}" for key, value in settings.items()]
    lines += [f"tensor {key} {dtype_of(key, t)} {' '.join(map(str, t.shape))}" for key, t in tensors.items()]
    with open(path, "wb") as file:
        file.write(("\n".join(lines) + "\nend\n").encode())
        for key, t in tensors.items():
            file.write(t.numpy().astype({"i32": "<i4", "f32": "<f4", "f64": "<f8"}[dtype_of(key, t)]).tobytes())


def main():
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    directory = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2] / "tests/golden")
    directory.mkdir(parents=True, exist_ok=True)
    for name in CONFIGS:
        seed = 1
        settings, tensors, margin = make(name, seed)
        while margin < MIN_MARGIN:
            seed += 1
            settings, tensors, margin = make(name, seed)
        path = directory / (name + ".golden")
        write(path, settings, tensors)
        losses = tensors["step/loss"]
        print(f"{path.name}: seed {seed}, {path.stat().st_size} bytes, closest choice {margin:.1e}, "
              f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, grad norm {tensors['step/grad_norm'].min():.2f} .. "
              f"{tensors['step/grad_norm'].max():.2f}")


if __name__ == "__main__":
    main()
