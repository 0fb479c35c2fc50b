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
IN_ORDER = ("state_pass", "state_back")  # a program goes through a row's chunks; the others have one for each chunk
ABOUT = """\
# What the kernels multiply and move

Computed from shapes by `python benchmarks/kernel_costs.py`; nothing here was measured. For each token of a head:
bfloat16 inputs, float32 memories and gates, momentum, forgetting towards the initial memory, no layer norm. Flops are
those of matrix products, two for each multiplication, counted again where a kernel makes something twice; bytes are
every tensor of a kernel, once as it is read and once as it is written.

A GPU that does F flops and moves B bytes a second is bound by its memory where a kernel does fewer than F/B flops a
byte: about 295 on an H100 SXM and 206 on an H200, by NVIDIA's data sheets (989 TFLOP/s of dense bfloat16; 3.35 and
4.8 TB/s). A kernel whose chunks go in their order has B H programs, the others B H T/C.
"""


def table(scan: costs.Scan) -> str:
    """Kernels of one scan, and their sums."""
    work = costs.memory_scan(scan)
    forward = costs.total(work[name] for name in costs.FORWARD)
    backward = costs.total(work[name] for name in work.keys() - set(costs.FORWARD))
    lines = work | {"forward": forward, "backward": backward}
    rows = []
    for name, (flops, moved) in lines.items():
        chunks = "" if name not in work else "in their order" if name in IN_ORDER else "at once"
        rows.append([name, f"{flops / scan.C / 1000:,.1f}", f"{moved / scan.C:,.0f}", f"{flops / moved:,.0f}", chunks])
    return markdown(["kernel", "kflop", "bytes", "flops a byte", "chunks"], rows)


def text() -> str:
    """All tables, as Markdown."""
    return "\n".join([ABOUT, *(f"## {name}\n\n{table(scan)}\n" for name, scan in SCANS.items())])


def main() -> None:
    """Print the tables, and keep them in ``results/kernel_costs.md``."""
    write_text(Path(__file__).parent / "results" / "kernel_costs.md", text())
    print(text())


if __name__ == "__main__":
    main()
