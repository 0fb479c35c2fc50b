"""Where the time of one memory layer goes: matrix products, other arithmetic, copies, and calls of torch."""

import time
from collections import Counter
from pathlib import Path

import torch
from torch.profiler import profile

from titans_seq.bench.results import machine, markdown, versions
from titans_seq.memory import MemoryConfig, NeuralMemory
from titans_seq.ops.matmul import use_fastest_exact_matmul

TOKENS = 4096
KINDS = {
    "matrix products": {"mm", "bmm", "addmm", "baddbmm", "addmm_", "mkldnn_convolution"},
    "copies": {"copy_", "cat", "fill_", "zero_", "clone", "stack", "contiguous"},
    "views and allocation": {"as_strided", "view", "transpose", "expand", "empty", "empty_strided", "slice", "select"},
}


def kind_of(name: str) -> str:
    """Kind of an operator of torch by its name."""
    op = name.removeprefix("aten::")
    return next((kind for kind, ops in KINDS.items() if op in ops), "other arithmetic, autograd")


def call_of_nothing() -> float:
    """Seconds of one call of torch that has next to nothing to compute."""
    x = torch.ones(1)
    begun = time.perf_counter()
    for _ in range(20_000):
        x.mul(x)
    return (time.perf_counter() - begun) / 20_000


def main() -> None:
    """Profile forward, and forward with backward, of the layer that `bench memory` measures; keep the table."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    library = use_fastest_exact_matmul()
    torch.manual_seed(0)
    layer = NeuralMemory(256, 4, MemoryConfig(chunk_size=64, conv=1))
    x = torch.randn(1, TOKENS, 256, requires_grad=True)
    lines = []
    for backward in (False, True):

        def call(backward: bool = backward) -> None:
            with torch.set_grad_enabled(backward):
                y, _ = layer(x, layer.initial_state(1))
            if backward:
                y.square().mean().backward()

        for _ in range(3):
            call()
        with profile() as found:
            call()
        spent, calls = Counter[str](), 0
        for event in found.key_averages():
            spent[kind_of(event.key)] += event.self_cpu_time_total
            calls += event.count if event.key.startswith("aten::") else 0
        total = sum(spent.values())
        shares = ", ".join(f"{kind} {time / total:.0%}" for kind, time in spent.most_common())
        name = "forward + backward" if backward else "forward"
        lines.append(
            [name, f"{total / 1000:,.0f} ms", shares, f"{calls:,}", f"{calls * call_of_nothing() * 1000:,.0f} ms"]
        )
    head = ["", "under the profiler", "shares", "calls of torch", "so many calls of nothing"]
    made = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = (
        f"# Where the time of one layer goes\n\n{time.strftime('%Y-%m-%d')}; {machine()}; {made}; one thread, "
        f"float32 products by {library}. Width 256, 4 heads of 64, two-layer memory, chunks of 64, {TOKENS:,} tokens, "
        f"no convolutions. `python benchmarks/layer_profile.py`.\n\n{markdown(head, lines)}\n"
    )
    (Path(__file__).parent / "results" / "layer_profile.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
