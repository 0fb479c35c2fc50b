"""``titans-seq bench``: speed and memory of this installation, on this machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from titans_seq.cli.command import command

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Out = Annotated[Path, typer.Option(help="Folder of the results: JSON, Markdown table and picture.")]
Tokens = Annotated[str | None, typer.Option(help="Lengths to measure, with commas between them.")]
Memory = Annotated[
    float | None, typer.Option(min=0.5, help="GiB a measured process may have; three quarters of all if not given.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A minute's run: short inputs, few rounds.")]
Again = Annotated[bool, typer.Option("--again", help="Measure anew what --out already has.")]


def counts(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers above zero with commas between them."""
    from titans_seq.errors import UsageError

    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (0,)
    if min(found) < 1:
        raise UsageError(f"{option} {text} should be whole numbers above zero with commas between them, as 1024,4096.")
    return found


@command(app)
def memory(
    out: Out = Path("bench"),
    peer: Annotated[
        Path | None, typer.Option(help="Python of an environment that has titans-pytorch, to stand beside ours.")
    ] = None,
    tokens: Tokens = None,
    threads: Annotated[str | None, typer.Option(help="CPU threads to measure with, with commas between them.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Calls that a median is taken of.")] = None,
    budget: Annotated[float | None, typer.Option(min=0, help="Seconds a row of a cell may take.")] = None,
    memory: Memory = None,
    quick: Quick = False,
    again: Again = False,
) -> Any:
    """Measure one memory layer beside attention and titans-pytorch: tokens a second and peak memory.

    A cell that --out has already is not measured again, so that a run that was stopped goes on.

    Example: titans-seq bench memory --out bench --quick
    """
    from titans_seq.bench.memory import QUICK, Plan, bench_memory

    given: dict[str, Any] = {
        "tokens": counts(tokens, "--tokens") if tokens else None,
        "threads": counts(threads, "--threads") if threads else None,
        "rounds": rounds,
        "budget": budget,
    }
    plan = (QUICK if quick else Plan())._replace(**{key: value for key, value in given.items() if value is not None})
    return *bench_memory(out, plan, peer=str(peer) if peer else None, memory=memory, again=again), 0


@command(app)
def long(
    out: Out = Path("bench"),
    model: Annotated[
        list[str] | None, typer.Option(help="LMM, MAC, MAG, MAL, 'LMM, series' or Transformer++; may be repeated.")
    ] = None,
    tokens: Tokens = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    budget: Annotated[float | None, typer.Option(min=0, help="Seconds that attention may take for a stream.")] = None,
    memory: Memory = None,
    quick: Quick = False,
    again: Again = False,
) -> Any:
    """Stream up to 2,097,152 tokens through each backbone: tokens a second, peak memory, and whether they stay level.

    A cell that --out has already is not measured again, so that a run that was stopped goes on.

    Example: titans-seq bench long --out bench --tokens 1024,65536,262144
    """
    from titans_seq.bench.long import MODELS, QUICK, Plan, bench_long
    from titans_seq.errors import UsageError

    if strange := [name for name in model or [] if name not in MODELS]:
        raise UsageError(f"--model {strange[0]} is not one of {'; '.join(MODELS)}.")
    given: dict[str, Any] = {"tokens": counts(tokens, "--tokens") if tokens else None, "budget": budget}
    plan = (QUICK if quick else Plan())._replace(**{key: value for key, value in given.items() if value is not None})
    return *bench_long(
        out, plan._replace(threads=threads), models=model or tuple(MODELS), memory=memory, again=again
    ), 0
