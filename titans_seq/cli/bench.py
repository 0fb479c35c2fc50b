"""``titans-seq bench``: speed and memory of this installation on this machine, and what small models learn."""

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


Fasta = Annotated[str | None, typer.Option(help="Genome as FASTA; its longest record is read.")]
Seeds = Annotated[str, typer.Option(help="Seeds, with commas between them; the first chooses the learning rates.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of training; each task's own if not given.")]
OneThread = Annotated[int, typer.Option(min=1, help="CPU threads.")]


def seeds_of(text: str) -> tuple[int, ...]:
    """Whole numbers from zero on with commas between them."""
    from titans_seq.errors import UsageError

    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise UsageError(f"--seeds {text} should be whole numbers with commas between them, as 0,1,2.")
    return tuple(int(part) for part in text.split(","))


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


@command(app)
def recall(
    out: Out = Path("bench"),
    tasks: Annotated[
        str | None, typer.Option(help="mqar, needle, copying, parity, s5 or needle_genome, with commas between them.")
    ] = None,
    models: Annotated[str | None, typer.Option(help="Models to train, with commas between them.")] = None,
    seeds: Seeds = "0,1,2",
    steps: Steps = None,
    longest: Annotated[int, typer.Option(min=256, help="Tokens of the needle's longest test.")] = 65_536,
    fasta: Fasta = None,
    threads: OneThread = 1,
    again: Again = False,
) -> Any:
    """Train small models on associative recall, a needle in bases, copying, parity and S5, and compare them.

    A trial that --out has already is not made again, so that a run that was stopped goes on. With --fasta the needle
    is also hidden in the bases of a genome.

    Example: titans-seq bench recall --out bench --tasks mqar,copying --models lmm,attention
    """
    from titans_seq.bench.recall import TASKS, Plan, bench_recall

    plan = Plan(
        tasks=tuple(tasks.split(",")) if tasks else (*TASKS, *(["needle_genome"] if fasta else [])),
        seeds=seeds_of(seeds),
        steps=steps,
        threads=threads,
        longest=longest,
    )
    if models:
        plan = plan._replace(models=tuple(models.split(",")))
    return *bench_recall(out, plan, fasta=fasta, again=again), 0


@command(app)
def needles(
    out: Out = Path("bench"),
    tasks: Annotated[
        str | None, typer.Option(help="single_dna, several_text, two_hop_dna ... with commas between them.")
    ] = None,
    models: Annotated[str | None, typer.Option(help="Models to train, with commas between them.")] = None,
    seeds: Seeds = "0,1,2",
    steps: Steps = None,
    longest: Annotated[int, typer.Option(min=1024, help="Tokens of the longest test.")] = 2_097_152,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Seconds a test may take; longer ones are then not tried.")
    ] = None,
    threads: OneThread = 1,
    again: Again = False,
) -> Any:
    """Hide facts in nucleotides and in text, and have small models that read up to 2,097,152 tokens find them.

    One fact, one of several, and facts of two hops; trained at 1,024 tokens. What --out has already is not made again,
    so that a run that was stopped goes on, length by length, and one with a larger --longest or --budget adds to it.

    Example: titans-seq bench needles --out bench --tasks single_dna --models mac,mag,mal --longest 65536
    """
    from titans_seq.bench.needles import Plan, bench_needles

    given: dict[str, Any] = {
        "tasks": tuple(tasks.split(",")) if tasks else None,
        "models": tuple(models.split(",")) if models else None,
        "steps": steps,
        "budget": budget,
    }
    plan = Plan(seeds=seeds_of(seeds), longest=longest, threads=threads)
    plan = plan._replace(**{key: value for key, value in given.items() if value is not None})
    return *bench_needles(out, plan, again=again), 0


@command(app)
def ablation(
    out: Out = Path("bench"),
    models: Annotated[str | None, typer.Option(help="Rows of the table, with commas between them.")] = None,
    seeds: Seeds = "0,1,2",
    steps: Steps = None,
    fasta: Fasta = None,
    threads: OneThread = 1,
    again: Again = False,
) -> Any:
    """Repeat Titans' ablation on a small language model of nucleotides: bits a nucleotide without each part.

    A trial that --out has already is not made again, so that a run that was stopped goes on. Without --fasta it
    reads the sample that travels with the package.

    Example: titans-seq bench ablation --out bench --fasta genome.fa.gz
    """
    from titans_seq.bench.ablation import SAMPLE, Plan, bench_ablation

    plan = Plan(tuple(models.split(",")) if models else None, seeds_of(seeds), threads=threads)
    plan = plan if steps is None else plan._replace(steps=steps)
    return *bench_ablation(out, plan, fasta=fasta or SAMPLE, again=again), 0
