#!/usr/bin/env python3
"""The same shapes in PyTorch, to stand beside moe-bench: dense and grouped products, and a training step of MoE blocks.

    scripts/gpu_peer.py [--json FILE] [--tokens N] [--layers N] [--device cuda] [--model JSON]

Experts are multiplied by PyTorch's grouped product where it is there, else by one torch.mm an expert. The blocks wait for nothing
of the device, and rows come and go by index_select, whose gradient is a sum of rows without a sort. A step is measured twice: with
fp32 masters, moments and gradients beside bf16 weights, as ours has, and with all of it in bf16, which is less work and worse
training. Not compiled (torch.compile). Prints a line for each figure. Exit code 69 without PyTorch or a GPU. Not here: our own figures
(moe-bench), the judgement (gpu_report.py).
"""
import argparse
import json
import sys
import time

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    print("gpu_peer: error: PyTorch: not found", file=sys.stderr)
    sys.exit(69)

SHAPES = {"olmoe": dict(E=64, D=2048, F=1024, K=8), "qwen3": dict(E=128, D=2048, F=768, K=8)}


def wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_of(call, repetitions=5, calls=5):
    """Median time of a call, after two that do not count."""
    call(), call(), wait()
    times = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        times.append((time.perf_counter() - begin) / calls)
    return sorted(times)[repetitions // 2]


GROUPED_MM = getattr(F, "grouped_mm", getattr(torch, "_grouped_mm", None))


def grouped_mm(x_RK, w_EKN, ends_E, counts):
    if GROUPED_MM and x_RK.is_cuda:
        return GROUPED_MM(x_RK, w_EKN, offs=ends_E)
    return torch.cat([x @ w for x, w in zip(x_RK.split(counts), w_EKN)])


def loads(name, rows, E, device):
    share = torch.ones(E) if name == "balanced" else 1 / torch.arange(1, E + 1)
    counts = (rows * share / share.sum()).floor().long()
    counts[0] += rows - counts.sum()
    return counts.cumsum(0).to(device=device, dtype=torch.int32), counts.tolist()


def grouped_figures(shape, tokens, load, device):
    """TFLOP/s of the gate-and-up map forward, and of both gradients together."""
    E, D, width, R = shape["E"], shape["D"], 2 * shape["F"], tokens * shape["K"]
    ends, counts = loads(load, R, E, device)
    x = torch.randn(R, D, device=device, dtype=torch.bfloat16, requires_grad=True)
    w = torch.randn(E, D, width, device=device, dtype=torch.bfloat16, requires_grad=True)
    flop = 2.0 * R * D * width
    with torch.no_grad():
        forward = seconds_of(lambda: grouped_mm(x, w, ends, counts))
    y = grouped_mm(x, w, ends, counts)
    dy = torch.randn_like(y)
    backward = seconds_of(lambda: torch.autograd.grad(y, (x, w), dy, retain_graph=True))
    return {"forward_tflops": flop / forward * 1e-12, "backward_tflops": 2 * flop / backward * 1e-12}


class Block(torch.nn.Module):
    """A block of OLMoE: attention, router, experts."""

    def __init__(self, D, heads, E, width, K):
        super().__init__()
        make = lambda *s: torch.nn.Parameter(0.02 * torch.randn(*s))
        self.heads, self.E, self.K = heads, E, K
        self.qkv, self.o, self.router = make(3 * D, D), make(D, D), make(E, D)
        self.gate_up, self.down = make(E, D, 2 * width), make(E, width, D)
        self.norm1, self.norm2 = torch.nn.Parameter(torch.ones(D)), torch.nn.Parameter(torch.ones(D))

    def attention(self, x):
        B, S, D = x.shape
        q, k, v = F.linear(x, self.qkv).view(B, S, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.linear(o.transpose(1, 2).reshape(B, S, D), self.o)

    def experts(self, x):
        p = F.linear(x, self.router).float().softmax(-1)
        gate, chosen = p.topk(self.K, -1)
        slots = chosen.flatten()
        order = slots.argsort(stable=True)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        counts = torch.zeros(self.E, device=x.device, dtype=torch.int32)
        counts.scatter_add_(0, slots, torch.ones_like(slots, dtype=torch.int32))  # bincount() waits for the device
        ends = counts.cumsum(0, dtype=torch.int32)
        listed = None if GROUPED_MM and x.is_cuda else counts.tolist()
        g, u = grouped_mm(x.index_select(0, order // self.K), self.gate_up, ends, listed).chunk(2, -1)
        y = grouped_mm(F.silu(g) * u, self.down, ends, listed).index_select(0, back)
        return torch.einsum("tkd,tk->td", y.view(len(x), self.K, -1), gate.to(x.dtype))

    def forward(self, x):
        x = x + self.attention(F.rms_norm(x, x.shape[-1:], self.norm1))
        n = F.rms_norm(x, x.shape[-1:], self.norm2)
        return x + self.experts(n.view(-1, x.shape[-1])).view_as(x)


def block_step(layers, batch, seq, device, masters, D=2048, heads=16, E=64, width=1024, K=8):
    """Forward, backward and fused AdamW of the blocks alone; FLOP counted as moe-bench does. masters: in fp32."""
    with torch.device(device):
        blocks = [Block(D, heads, E, width, K).to(torch.bfloat16) for _ in range(layers)]
    model = torch.nn.Sequential(*blocks)
    weights = list(model.parameters())
    states = [w.detach().float() for w in weights] if masters else weights
    optimizer = torch.optim.AdamW(states, fused=device == "cuda")
    x = torch.randn(batch, seq, D, device=device, dtype=torch.bfloat16)

    def step():
        model(x).float().square().mean().backward()
        if masters:
            for state, weight in zip(states, weights):
                state.grad, weight.grad = weight.grad.float(), None
        optimizer.step()
        if masters:
            with torch.no_grad():
                torch._foreach_copy_(weights, states)
        optimizer.zero_grad(set_to_none=True)

    seconds = seconds_of(step, repetitions=3, calls=2)
    active = 4 * D * D + E * D + K * 3 * D * width
    flop = batch * seq * layers * (6.0 * active + 6.0 * D * seq)
    return {"layers": layers, "batch": batch, "seq": seq, "tokens_per_second": batch * seq / seconds,
            "model_tflops": flop / seconds * 1e-12}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default={}, type=json.loads, help="sizes of a block as JSON (D, heads, E, width, K)")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("gpu_peer: error: PyTorch finds no GPU", file=sys.stderr)
        return 69
    result = {"torch": torch.__version__, "grouped_mm": getattr(GROUPED_MM, "__name__", None), "grouped": {}}

    def keep(name, make):
        """A figure that cannot be had does not cost the others; the file is written after each."""
        try:
            value = make()
        except Exception as error:  # noqa: BLE001: of the library, whatever it is
            value = {"error": f"{type(error).__name__}: {error}"[:300]}
        print(name, json.dumps(value), flush=True)
        return value

    def save():
        if arguments.json:
            with open(arguments.json, "w", encoding="utf-8") as out:
                json.dump(result, out, indent=1)

    for name, shape in SHAPES.items():
        for load in ("balanced", "zipf"):
            key = f"{name}/{load}"
            result["grouped"][key] = keep(key, lambda: grouped_figures(shape, arguments.tokens, load, arguments.device))
            save()
    seq = min(4096, arguments.tokens)
    batch = max(1, arguments.tokens // seq // 2)
    for name, masters in (("block", True), ("block_bf16_state", False)):
        result[name] = keep(name, lambda: block_step(arguments.layers, batch, seq, arguments.device, masters, **arguments.model))
        save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
