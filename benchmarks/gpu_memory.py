"""The fused kernels on one GPU, beside the chunked path, flash-linear-attention and attention, and the chip's ceilings.

All rows of a cell are measured side by side, call by call in turn, each after the L2 cache was filled with something
else. Peers in the same environment: ``pip install flash-linear-attention``; without it its rows are absent.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from titans_seq.bench import costs
from titans_seq.bench.results import MiB, Results, markdown, opened
from titans_seq.errors import TitansError
from titans_seq.files import write_text
from titans_seq.miras.learning import GradientDescent, Momentum
from titans_seq.miras.retention import Forgetting, NoRetention
from titans_seq.miras.structure import MLP, Layers, Matrix
from titans_seq.ops import kernels
from titans_seq.ops.delta_scan import delta_scan
from titans_seq.ops.memory_scan import chunked, memory_scan
from titans_seq.ops.memory_scan.triton import HELD

MODES = {"forward": False, "forward+backward": True}
CHUNK, TTT_CHUNK = 64, 16  # the last is what flash-linear-attention takes by default
LONGEST = 16_384  # tokens of the chunked path: beyond, a call takes many seconds
KERNELS = "kernels"


class Cell(NamedTuple):
    """Where rows stand side by side."""

    mode: str
    B: int
    H: int
    T: int
    D: int

    def __str__(self) -> str:
        return f"{self.mode}, B {self.B}, H {self.H}, T {self.T:,}, D {self.D}"


SHAPES = [(8, 16, 4096, 64), (2, 16, 16_384, 64), (32, 16, 4096, 64), (1, 4, 65_536, 64), (1, 4, 2**20, 64)]
SHAPES += [(8, 16, 4096, 128), (1, 4, 16_384, 128)]
TINY = [(1, 1, 20, 32)]


class Given(NamedTuple):
    """What every row of a cell is given: the same numbers."""

    q: Tensor  # (B, H, T, D), of norm 1 as keys are
    k: Tensor
    v: Tensor
    theta: Tensor  # (B, H, T), float32, and so the other gates
    alpha: Tensor
    eta: Tensor


def given(cell: Cell, device: str) -> Given:
    """Random inputs in bfloat16, in float32 where kernels are interpreted: that has no bfloat16."""
    g = torch.Generator(device).manual_seed(0)
    rows = (cell.B, cell.H, cell.T)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = (torch.randn(*rows, cell.D, generator=g, device=device) for _ in range(3))
    theta, alpha, eta = (torch.rand(rows, generator=g, device=device) for _ in range(3))
    parts = *(part.to(dtype) for part in (F.normalize(q, dim=-1), F.normalize(k, dim=-1), v)), theta / CHUNK
    return Given(*(part.requires_grad_() for part in (*parts, alpha / 50, eta)))


Call = Callable[[], Tensor]  # what is read, of one call


class Row(NamedTuple):
    """One thing that is measured."""

    group: str  # of the same memory
    how: str
    make: Callable[[Given], tuple[Call, list[Tensor]]]  # a call, and what it gives slopes to
    work: Callable[[Cell], costs.Work | None] = lambda cell: None
    longest: int = 2**20  # tokens

    @property
    def name(self) -> str:
        """As the tables have it."""
        return f"{self.group}: {self.how}"


# --- what is measured


def scan(structure: Layers, backend: str, *, plain: bool = False, compiled: str = "") -> Callable[..., Any]:
    """A memory scan with momentum and forgetting, or with neither, and by a compiler of torch if there is a name."""

    def make(x: Given) -> tuple[Call, list[Tensor]]:
        H, D = x.q.shape[1], x.q.shape[3]
        g = torch.Generator(x.q.device).manual_seed(1)
        initial = tuple(
            (torch.randn(H, *size, generator=g, device=x.q.device) / size[0] ** 0.5).requires_grad_()
            for size in structure.sizes(D, D)
        )
        gain = torch.ones(H, D, device=x.q.device).requires_grad_() if structure.norm else None
        gates = (x.theta, None, None) if plain else (x.theta, x.alpha, x.eta)
        options: dict[str, Any] = {
            "initial": initial,
            "structure": structure,
            "gain": gain,
            "retention": NoRetention() if plain else Forgetting(),
            "learning": GradientDescent(normalised=False) if plain else Momentum(),
            "chunk_size": TTT_CHUNK if plain else CHUNK,
            "operands": "bfloat16" if backend == "chunked" and x.q.is_cuda else "float32",
            "backend": backend,
        }
        step = torch.compile(chunked._chunk, backend=compiled) if compiled else chunked._chunk

        def call() -> Tensor:
            with chunk_by(step):
                return memory_scan(x.q, x.k, x.v, *gates, **options)[0]

        leaves = [x.q, x.k, x.v, *(gate for gate in gates if gate is not None), *initial]
        return call, leaves if gain is None else [*leaves, gain]

    return make


@contextmanager
def chunk_by(step: Any) -> Iterator[None]:
    """Let the chunked path take its chunks by another function."""
    before, chunked._chunk = chunked._chunk, step
    try:
        yield
    finally:
        chunked._chunk = before


def gated_delta(x: Given) -> tuple[Call, list[Tensor]]:
    """Gated DeltaNet: $M_t = α_t (1 - β_t k_t k_tᵀ) M_{t-1} + β_t k_t v_tᵀ$, with 1 - α for decay and η for β."""

    def call() -> Tensor:
        decay, beta = torch.log1p(-x.alpha), x.eta[..., None]
        erase = (decay.exp()[..., None] * x.k).to(x.k.dtype), (beta * x.k).to(x.k.dtype)
        return delta_scan(x.q, x.k, (beta * x.v).to(x.v.dtype), decay, erase, backend="triton")[0]

    return call, [x.q, x.k, x.v, x.alpha, x.eta]


def peers() -> tuple[list[Row], str]:
    """Rows of flash-linear-attention and its version; none where it is not there."""
    try:
        import fla
        from fla.ops.gated_delta_rule import chunk_gated_delta_rule
        from fla.ops.ttt import chunk_ttt_linear, fused_chunk_ttt_linear
    except Exception as error:  # its import asks for a driver, too
        print(f"flash-linear-attention is not measured: {type(error).__name__}: {error}", file=sys.stderr)
        return [], "absent"

    def heads_last(*parts: Tensor) -> list[Tensor]:
        return [part.detach().transpose(1, 2).contiguous().requires_grad_() for part in parts]

    def ttt(function: Any) -> Callable[[Given], tuple[Call, list[Tensor]]]:
        def make(x: Given) -> tuple[Call, list[Tensor]]:
            q, k, v, eta = heads_last(x.q, x.k, x.v, x.theta[..., None].to(x.q.dtype))
            w, b = (
                fill(x.q.shape[1], x.q.shape[3], dtype=x.q.dtype, device=x.q.device)
                for fill in (torch.ones, torch.zeros)
            )
            leaves = [q, k, v, eta, w.requires_grad_(), b.requires_grad_()]
            return lambda: function(q, k, v, w=w, b=b, eta=eta, chunk_size=TTT_CHUNK)[0], leaves

        return make

    def delta(x: Given) -> tuple[Call, list[Tensor]]:
        q, k, v, alpha, beta = heads_last(x.q, x.k, x.v, x.alpha, x.eta.to(x.q.dtype))
        return lambda: chunk_gated_delta_rule(q, k, v, g=torch.log1p(-alpha), beta=beta)[0], [q, k, v, alpha, beta]

    rows = [
        Row("TTT-linear", "fla chunk_ttt_linear", ttt(chunk_ttt_linear)),
        Row("TTT-linear", "fla fused_chunk_ttt_linear", ttt(fused_chunk_ttt_linear)),
        Row("gated delta rule", "fla chunk_gated_delta_rule", delta),
    ]
    return rows, getattr(fla, "__version__", "unknown")


def attention(x: Given) -> tuple[Call, list[Tensor]]:
    """Causal attention to everything before."""
    return lambda: F.scaled_dot_product_attention(x.q, x.k, x.v, is_causal=True), [x.q, x.k, x.v]


def attention_work(cell: Cell) -> costs.Work:
    """Half of all pairs twice, and two and a half times that backward (Dao 2023, section 4.1)."""
    pairs = cell.B * cell.H * cell.T * cell.T // 2
    tensors = cell.B * cell.H * cell.T * cell.D * 2
    flops = 4 * pairs * cell.D
    return costs.Work(flops * 7 // 2, 12 * tensors) if MODES[cell.mode] else costs.Work(flops, 4 * tensors)


def scan_work(structure: Layers, C: int = CHUNK, **choices: bool) -> Callable[[Cell], costs.Work]:
    """Flops and bytes of the kernels of a memory scan."""

    def work(cell: Cell) -> costs.Work:
        sizes, chunks = structure.sizes(cell.D, cell.D), cell.B * cell.H * -(-cell.T // C)
        of = costs.Scan(C, cell.D, sizes[-1][0], len(sizes), norm=structure.norm, **choices)
        names, bytes_of = costs.FORWARD, costs.sizes(of)
        if MODES[cell.mode]:
            names += costs.BACKWARD
            if chunks * (bytes_of["memories"] + bytes_of["momenta"]) > HELD:  # memories are made once more
                names += ("state_pass",)
        chunk = costs.memory_scan(of)
        return costs.total(chunk[name] for name in names).times(chunks)

    return work


def delta_work(cell: Cell) -> costs.Work:
    """Flops and bytes of the kernels of a delta scan that erases."""
    of = costs.Delta(cell.D, cell.D, block=min(64, cell.D))
    tile = costs.delta_scan(of)
    names = tile if MODES[cell.mode] else costs.DELTA_FORWARD
    return costs.total(tile[name] for name in names).times(cell.B * cell.H * -(-cell.T // of.C))


def rows_of(compiler: str) -> tuple[list[Row], str]:
    """All rows, and which flash-linear-attention is there."""
    layers: list[tuple[str, Layers]] = [("two layers", MLP()), ("matrix", Matrix())]
    rows = []
    for group, structure in layers:
        rows += [
            Row(group, KERNELS, scan(structure, "triton"), scan_work(structure)),
            Row(group, "chunked", scan(structure, "chunked"), longest=LONGEST),
            Row(group, "chunked, compiled", scan(structure, "chunked", compiled=compiler), longest=LONGEST),
        ]
    ttt = MLP(depth=1, norm=True)
    work = scan_work(ttt, TTT_CHUNK, momentum=False, returns=False)
    rows.append(Row("TTT-linear", KERNELS, scan(ttt, "triton", plain=True), work))
    rows.append(Row("gated delta rule", KERNELS, gated_delta, delta_work))
    found, told = peers()
    return [*rows, *found, Row("attention", "SDPA, causal", attention, attention_work)], told


# --- measuring


class Clock:
    """Seconds of calls on a device, each after its caches were filled with something else."""

    def __init__(self, device: str):
        self.cuda = device == "cuda"
        size = 2 * torch.cuda.get_device_properties(0).L2_cache_size if self.cuda else 1
        self.other = torch.empty(size, dtype=torch.uint8, device=device)

    def seconds(self, call: Callable[[], Any]) -> float:
        """Of one call."""
        self.other.zero_()
        if not self.cuda:
            begun = time.perf_counter()
            call()
            return time.perf_counter() - begun
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def peak(self, call: Callable[[], Any]) -> int:
        """Bytes that a call needs at most beside what was there; on a CPU it is not made."""
        if not self.cuda:
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def timed(clock: Clock, calls: dict[str, Callable[[], Any]], rounds: int, budget: float) -> dict[str, dict[str, Any]]:
    """Median seconds and peak memory of calls that take turns; what fails is told and left out.

    Args:
        clock: of the device.
        calls: by name; the first call of each compiles and tunes, the second gives its memory.
        rounds: calls that a median is taken of.
        budget: seconds that the rounds of one may take; one call is made at least.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, call in calls.items():
        try:
            call()
            found[name] = {"peak": clock.peak(call), "times": [clock.seconds(call)]}
        except Exception as error:  # out of memory, or what a peer raises: the others stand
            found[name] = {
                "failed": f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
            }
    for _ in range(rounds - 1):
        for name, facts in found.items():
            if "times" in facts and sum(facts["times"]) + facts["times"][0] <= budget:
                facts["times"].append(clock.seconds(calls[name]))
    for facts in found.values():
        if "times" in facts:
            facts["seconds"] = median(facts["times"])
    return found


def differentiated(call: Call, leaves: list[Tensor], backward: bool) -> Callable[[], Any]:
    """The call without a graph, or with one and all slopes."""

    def run() -> Any:
        with torch.set_grad_enabled(backward):
            y = call()
        return torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True) if backward else y

    return run


def measure(cell: Cell, rows: list[Row], device: str, rounds: int, budget: float) -> dict[str, dict[str, Any]]:
    """Every row of a cell that its length suits."""
    x = given(cell, device)
    suited = [row for row in rows if cell.T <= row.longest]
    calls = {row.name: differentiated(*row.make(x), MODES[cell.mode]) for row in suited}
    found = timed(Clock(device), calls, rounds, budget)
    for row in suited:
        work, facts = row.work(cell), found[row.name]
        if work and "seconds" in facts:
            facts |= {
                "flops_per_second": work.flops / facts["seconds"],
                "bytes_per_second": work.bytes / facts["seconds"],
            }
    return found


def ceilings(device: str, tiny: bool) -> dict[str, Any]:
    """What the chip does at best: bytes a second of a copy, read and written, and flops of a bfloat16 product."""
    n, size = (64, 2**12) if tiny else (8192, 2**30)
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = timed(Clock(device), {"copy": lambda: target.copy_(source), "product": lambda: a @ a}, 20, 5.0)
    copy, product = (found[name]["seconds"] for name in ("copy", "product"))
    return {"copy": 2 * size / copy, "product": 2 * n**3 / product}


# --- telling


def table(cell: Cell, rows: dict[str, dict[str, Any]], most: dict[str, Any]) -> str:
    """Rows of a cell, each beside the kernels of its group."""
    lines = []
    for name, facts in rows.items():
        if "failed" in facts:
            lines.append([name, facts["failed"], *[""] * 6])
            continue
        ours = rows.get(f"{name.partition(':')[0]}: {KERNELS}", {}).get("seconds")
        flops, moved = facts.get("flops_per_second"), facts.get("bytes_per_second")
        lines.append(
            [
                name,
                f"{facts['seconds'] * 1000:,.2f}",
                f"{cell.B * cell.T / facts['seconds']:,.0f}",
                f"{facts['seconds'] / ours:.2f}" if ours else "",
                f"{flops / 1e12:,.1f}" if flops else "",
                f"{flops / most['product']:.0%}" if flops else "",
                f"{moved / most['copy']:.0%}" if moved else "",
                f"{facts['peak'] / MiB:,.0f}",
            ]
        )
    head = ["", "ms", "tokens/s", "time by the kernels'", "TFLOP/s", "of products", "of copies", "MiB"]
    return markdown(head, lines)


ABOUT = f"""\
Inputs bfloat16, gates and memories float32. Two layers (of twice a head's width between them) and matrix: chunks of
{CHUNK}, momentum, forgetting towards the initial memory, the normalised step; TTT-linear: chunks of {TTT_CHUNK}, layer
norm, plain gradient descent. The chunked path multiplies in bfloat16; compiled are its chunks, one by one. Medians of
calls in turns, by events, L2 filled before each. MiB: the most that a call needs beside its inputs. TFLOP/s and shares
of the chip's measured ceilings are of the flops and bytes in `kernel_costs.md`, of attention half of all pairs. The
chunked path is measured up to {LONGEST:,} tokens."""


def report(results: Results, fla: str) -> str:
    """All tables as Markdown."""
    most = results.cells["ceilings"]
    gpu, copy, product = results.about["settings"]["gpu"], most["copy"] / 1e12, most["product"] / 1e12
    chip = f"GPU: {gpu}; at best it copies {copy:.2f} TB/s (read and written) and multiplies {product:,.0f} TFLOP/s."
    if fla == "absent":
        chip += " flash-linear-attention was not there, and its rows are absent."
    parts = ["# The fused memory kernels on a GPU", results.headline(), chip, ABOUT]
    for key, found in results.cells.items():
        if key != "ceilings":
            parts += [f"## {key}", table(Cell(**found["cell"]), found["rows"], most)]
    return "\n\n".join(parts) + "\n"


def bench(out: Path, minutes: float, again: bool, tiny: bool) -> str:
    """Measure the cells that ``out`` does not have until the minutes are over; returns the tables."""
    device, name = ("cpu", "none") if tiny else ("cuda", torch.cuda.get_device_name())
    rounds, budget = (1, 1.0) if tiny else (20, 3.0)
    torch.set_float32_matmul_precision("high")
    rows, fla = rows_of("aot_eager" if tiny else "inductor")
    settings = {"gpu": name, "rounds": rounds, "budget": budget, "tiny": tiny}
    extra = {"triton": version("triton"), "flash-linear-attention": fla, "cuda": torch.version.cuda or "none"}
    wanted = [Cell(mode, *shape) for shape in (TINY if tiny else SHAPES) for mode in MODES]
    begun = time.monotonic()
    with opened(out, "gpu_memory", settings, extra, again) as results:
        if "ceilings" not in results:
            results.keep("ceilings", ceilings(device, tiny))
        for cell in wanted:
            if str(cell) in results:
                continue
            if time.monotonic() - begun > 60 * minutes:
                print(f"{minutes:g} minutes are over; the same command goes on with {cell}.", file=sys.stderr)
                break
            print(f"{cell} ...", file=sys.stderr)
            results.keep(str(cell), {"cell": cell._asdict(), "rows": measure(cell, rows, device, rounds, budget)})
        text = report(results, fla)
        write_text(results.beside(".md"), text)
    return text


def main() -> None:
    """Measure, keep ``gpu_memory.json`` and ``.md``, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--minutes", type=float, default=5.0, help="no cell is begun after these")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--tiny", action="store_true", help="try the code on a CPU, into another --out")
    options = parser.parse_args()
    if options.tiny and not kernels.interpreted():
        sys.exit("--tiny tries the code on a CPU: set TRITON_INTERPRET=1.")
    if not options.tiny and (not torch.cuda.is_available() or kernels.interpreted()):
        sys.exit("This measures a GPU, and there is none, or TRITON_INTERPRET is set. --tiny tries the code.")
    try:
        print(bench(options.out, options.minutes, options.again, options.tiny))
    except TitansError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
