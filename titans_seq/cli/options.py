"""Options that commands take together: a parameter of one of these classes stands for all of its fields."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from titans_seq.cli.command import (
    BatchSize,
    Device,
    DryRun,
    Overwrite,
    Resume,
    Seed,
    Settings,
    StateIn,
    StateOut,
    Threads,
    absolute,
)

Reset = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="When the memory begins anew: record; never (records are one stream); N:LENGTH, also after a run of at "
        "least LENGTH N; every:LENGTH, also every LENGTH bases.",
    ),
]
BothStrands = Annotated[
    bool, typer.Option("--both-strands", help="Average over each record and its reverse complement; the work doubles.")
]


@dataclass(frozen=True)
class Devices:
    """What a training is spread over."""

    devices: Annotated[int, typer.Option(min=1, help="Processes a host, each on a GPU of its own or on the CPU.")] = 1
    num_nodes: Annotated[int, typer.Option(min=1, help="Hosts; torchrun or srun starts the processes there.")] = 1
    strategy: Annotated[
        Literal["auto", "ddp", "fsdp"],
        typer.Option(help="ddp: all weights on each device; fsdp: a part on each; auto: ddp, where there are several."),
    ] = "auto"

    @property
    def of_run(self) -> dict[str, Any]:
        """What is no part of the recipe."""
        return vars(self)


@dataclass(frozen=True)
class Training(Devices):
    """How a recipe is changed and carried out."""

    settings: Settings = None
    seed: Seed = 0
    device: Device = "auto"
    threads: Threads = None
    dry_run: DryRun = False
    overwrite: Overwrite = False
    resume: Resume = False

    @property
    def of_run(self) -> dict[str, Any]:
        """What is no part of the recipe."""
        return {name: value for name, value in vars(self).items() if name not in ("settings", "seed", "threads")}


@dataclass(frozen=True)
class Measuring:
    """How a model is used once."""

    device: Device = "auto"
    threads: Threads = None
    seed: Seed = 0
    batch_size: BatchSize = 64
    dry_run: DryRun = False


@dataclass(frozen=True)
class Writing(Measuring):
    """How a file of rows is made, which may be stopped and resumed."""

    overwrite: Overwrite = False
    resume: Resume = False


@dataclass(frozen=True)
class Sharing(Writing):
    """The same for a file of which several jobs may each write a part."""

    shard: Annotated[
        str | None,
        typer.Option(
            metavar="i/n", help="Do the i-th of n parts alone, into OUT.i-of-n; `titans-seq gather` makes one of them."
        ),
    ] = None


@dataclass(frozen=True)
class Streaming:
    """How records are read as streams."""

    state_in: StateIn = None
    state_out: StateOut = None
    reset: Reset = "record"
    both_strands: BothStrands = False


@dataclass(frozen=True)
class Cutting:
    """How sequences are cut out of a genome: `titans_seq.data.regions.Regions`."""

    reference: Annotated[str | None, typer.Option(metavar="FASTA", help="Genome that intervals are places of.")] = None
    aliases: Annotated[
        str | None, typer.Option(metavar="FILE", help="Lines of chromosome names that mean the same.")
    ] = None
    feature: Annotated[
        str | None,
        typer.Option(
            metavar="KIND,...",
            help="Kinds of feature to read of a GFF or GTF, such as gene,CDS; lines of one feature are joined.",
        ),
    ] = None
    window: Annotated[
        int | None, typer.Option(min=1, help="Cut so many bases around each summit or centre, with N beyond the ends.")
    ] = None
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tile each interval instead, with a window every so many bases.")
    ] = None
    max_n: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out windows with a larger share of N than this.")
    ] = None
    blacklist: Annotated[str | None, typer.Option(metavar="BED", help="Leave out windows that overlap these.")] = None

    @property
    def regions(self) -> dict[str, Any]:
        """What was asked for, as `Regions` takes it."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name in ("reference", "aliases", "blacklist"):
            if name in given:
                given[name] = absolute(given[name])
        if "feature" in given:
            given["feature"] = tuple(kind.strip() for kind in given["feature"].split(",") if kind.strip())
        return given
