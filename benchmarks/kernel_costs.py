"""What the kernels multiply and move for each token, computed from shapes: no measurement."""

from pathlib import Path

from titans_seq.bench import costs
from titans_seq.bench.results import markdown
from titans_seq.files import write_text

SCANS = {
    "Matrix, D 64, C 64": costs.Scan(64, 64, 64, 1),
    "Matrix, D 128, C 64": costs.Scan(64, 128, 128, 1),
    "Two layers 64-128-64, C 32": costs.Scan(32, 64, 128, 2),
    "Two layers 64-128-64, C 64": costs.Scan(64, 64, 128, 2),
    "Two layers 64-256-64, C 64": costs.Scan(64, 64, 256, 2),
    "Two layers 128-512-128, C 64": costs.Scan(64, 128, 512, 2),
}
DELTAS = {
    "Delta scan that erases, D 64": costs.Delta(64, 64),
    "Delta scan that erases, D 128": costs.Delta(128, 128),
    "Delta scan that does not, D 128": costs.Delta(128, 128, erases=False),
}
WAYS = ("forward", "backward")
IN_ORDER = ("state_pass", "state_back")  # a program goes through a row's chunks; the others have one for each chunk
ABOUT = """\
# What the kernels multiply and move

Computed from shapes by `python benchmarks/kernel_costs.py`; nothing here was measured. For each token of a head:
bfloat16 inputs, float32 memories and gates, momentum, forgetting towards the initial memory, no layer norm. Flops are
those of matrix products, two for each multiplication, counted again where a kernel makes something twice; bytes are
every tensor of a kernel, once as it is read and once as it is written. Backward is where all memories are held at once;
a longer sequence makes them once more (`state_pass`). The memories of the delta scan are kept in bfloat16.

A GPU that does F flops and moves B bytes a second is bound by its memory where a kernel does fewer than F/B flops a
byte: about 295 on an H100 SXM and 206 on an H200, by NVIDIA's data sheets (989 TFLOP/s of dense bfloat16; 3.35 and
4.8 TB/s). A kernel whose chunks go in their order has B H programs, the others B H T/C.
"""


def table(work: dict[str, costs.Work], C: int, forward: tuple[str, ...], backward: tuple[str, ...]) -> str:
    """Kernels of one scan by their work of C tokens, and the sums of both ways."""
    ways = {
        name: costs.total(work[kernel] for kernel in way) for name, way in zip(WAYS, (forward, backward), strict=True)
    }
    rows = []
    for name, one in (work | ways).items():
        chunks = "" if name in WAYS else "in their order" if name in IN_ORDER else "at once"
        rows.append([name, f"{one.flops / C / 1000:,.1f}", f"{one.bytes / C:,.0f}", f"{one.intensity:,.0f}", chunks])
    return markdown(["kernel", "kflop", "bytes", "flops a byte", "chunks"], rows)


def tables() -> dict[str, str]:
    """By name."""
    found = {name: table(costs.memory_scan(x), x.C, costs.FORWARD, costs.BACKWARD) for name, x in SCANS.items()}
    for name, x in DELTAS.items():
        work = costs.delta_scan(x)
        forward = tuple(kernel for kernel in work if kernel in costs.DELTA_FORWARD)
        found[name] = table(work, x.C, forward, tuple(kernel for kernel in work if kernel not in forward))
    return found


def text() -> str:
    """All tables, as Markdown."""
    return "\n".join([ABOUT, *(f"## {name}\n\n{table}\n" for name, table in tables().items())])


def main() -> None:
    """Print the tables, and keep them in ``results/kernel_costs.md``."""
    write_text(Path(__file__).parent / "results" / "kernel_costs.md", text())
    print(text())


if __name__ == "__main__":
    main()
