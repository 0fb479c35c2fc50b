"""Where the time of one memory layer goes: matrix products, other arithmetic, copies, and calls of torch.

And what its products alone would take at the rate of large ones, which no layer of these flops can pass.
"""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import profile

from titans_seq.bench.results import machine, markdown, versions
from titans_seq.memory import MemoryConfig, NeuralMemory
from titans_seq.ops.arithmetic import use_fastest_exact_arithmetic

TOKENS = 4096
LAYERS = {
    "gates a token": MemoryConfig(chunk_size=64, conv=1),
    "gates a chunk": MemoryConfig(chunk_size=64, conv=1, gates="chunk", read="start"),
}
PRODUCTS = "matrix products"
KINDS = {
    PRODUCTS: {"mm", "bmm", "addmm", "baddbmm", "addmm_", "mkldnn_convolution"},
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


def seconds_of(call: Callable[[], object], rounds: int = 7) -> float:
    """The least of some rounds, after one unmeasured."""
    call()
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return min(found)


def rate_of_products() -> float:
    """Flops a second of a large float32 product."""
    a, b = torch.randn(2048, 1024), torch.randn(1024, 1024)
    return 2 * 2048 * 1024 * 1024 / seconds_of(lambda: a @ b)


def row(name: str, call: Callable[[], object], rate: float) -> list[str]:
    """One line of the table."""
    seconds = seconds_of(call)
    with profile(with_flops=True) as found:
        call()
    spent, calls, flops = Counter[str](), 0, 0.0
    for event in found.key_averages():
        kind = kind_of(event.key)
        spent[kind] += event.self_cpu_time_total
        flops += event.flops / TOKENS if kind == PRODUCTS else 0
        calls += event.count if event.key.startswith("aten::") else 0
    shares = ", ".join(f"{kind} {time / spent.total():.0%}" for kind, time in spent.most_common())
    return [
        name,
        f"{TOKENS / seconds:,.0f}",
        f"{flops / 1e6:.2f} M",
        f"{rate / flops:,.0f}",
        shares,
        f"{calls:,}",
        f"{calls * call_of_nothing() * 1000:,.0f} of {seconds * 1000:,.0f} ms",
    ]


def main() -> None:
    """Profile forward, and forward with backward, of two layers that `bench memory` measures; keep the table."""
    torch.set_num_threads(1)
    library = use_fastest_exact_arithmetic()
    torch.manual_seed(0)
    rate, lines = rate_of_products(), []
    for gates, config in LAYERS.items():
        layer = NeuralMemory(256, 4, config)
        x = torch.randn(1, TOKENS, 256, requires_grad=True)
        for backward in (False, True):

            def call(layer: NeuralMemory = layer, x: torch.Tensor = x, backward: bool = backward) -> None:
                with torch.set_grad_enabled(backward):
                    y, _ = layer(x, layer.initial_state(1))
                if backward:
                    y.square().mean().backward()

            lines.append(row(f"{gates}, {'forward + backward' if backward else 'forward'}", call, rate))
    head = [
        "",
        "tokens a second",
        "flops of products a token",
        "tokens a second, were they all",
        "shares under the profiler",
        "calls of torch",
        "so many calls of nothing",
    ]
    made = ", ".join(f"{name} {number}" for name, number in versions().items())
    text = (
        f"# Where the time of one layer goes\n\n{time.strftime('%Y-%m-%d')}; {machine()}; {made}; one thread, "
        f"float32 products by {library}. Width 256, 4 heads of 64, two-layer memory, chunks of 64, {TOKENS:,} tokens, "
        f"no convolutions. `python benchmarks/layer_profile.py`.\n\n{markdown(head, lines)}\n\n"
        f'"Were they all": the same products alone, each at the rate of a large one, {rate / 1e9:.0f} billion flops a '
        "second here. A calculation of the same products can't be faster than that.\n"
    )
    (Path(__file__).parent / "results" / "layer_profile.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
