"""``titans-seq genomics``: sequences."""

from pathlib import Path
from typing import Annotated, Any

import typer

from titans_seq.cli.command import (
    BatchSize,
    Config,
    Device,
    DryRun,
    Model,
    Overwrite,
    Resume,
    Run,
    Seed,
    Settings,
    Start,
    StateIn,
    StateOut,
    Threads,
    absolute,
    backbone_of,
    command,
    sets_length,
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Input = Annotated[str, typer.Argument(metavar="INPUT", help="FASTA or table of sequences; - is a FASTA on stdin.")]
Reset = Annotated[
    str,
    typer.Option(
        metavar="RULE",
        help="When the memory begins anew: record; never (records are one stream); N:LENGTH, also after a run of at "
        "least LENGTH N; every:LENGTH, also every LENGTH bases.",
    ),
]


@command(app)
def audit(
    path: Annotated[str, typer.Argument(help="FASTA, labelled table or folder; - is stdin.")],
    out: Annotated[Path | None, typer.Option(help="Write the audit as JSON.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 3 if there is a problem.")] = False,
    overwrite: Overwrite = False,
) -> Any:
    """Read a file as training would, and say what is in it.

    Example: titans-seq genomics audit genome.fa.gz
    """
    from titans_seq.cli.top import check_new, finish_audit
    from titans_seq.data.audit import audit_sequences
    from titans_seq.resources import data_file

    check_new(out, overwrite)
    return finish_audit(audit_sequences(data_file(path)), out, strict)


@command(app)
def pretrain(
    fasta: Annotated[list[str], typer.Argument(help="FASTA files, plain, gzip or bgzip.")],
    out: Run,
    config: Config = None,
    start: Start = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> Any:
    """Train a backbone to predict the next nucleotide.

    Example: titans-seq genomics pretrain genome.fa.gz --out runs/genome --config dna_small --set training.steps=2000
    """
    from titans_seq.recipe import build
    from titans_seq.run import train

    content = {
        "data": {"kind": "fasta", "paths": [absolute(path) for path in fasta]},
        "task": {"kind": "language_model"},
        "training": {"batch_size": 8, **({} if sets_length(settings) else {"steps": 1000})},
        "seed": seed,
        "threads": threads,
        **backbone_of(start, config, "dna_tiny"),
    }
    recipe = build(content, settings or [], "the command line")
    return train(recipe, out, resume=resume, overwrite=overwrite, device=device, dry_run=dry_run)


@command(app)
def finetune(
    train: Annotated[str, typer.Argument(help="Table with a sequence and a label column, or FASTA with --labels.")],
    out: Run,
    validation: Annotated[
        str | None, typer.Option(help="Table that chooses the best weights; else a share of TRAIN.")
    ] = None,
    start: Start = None,
    config: Config = None,
    task: Annotated[str, typer.Option(help="classification.")] = "classification",
    labels: Annotated[str | None, typer.Option(help="Table of id and label, when TRAIN is a FASTA.")] = None,
    sequence_column: Annotated[str | None, typer.Option(help="Column of the sequences; found by itself.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels; found by itself.")] = None,
    settings: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> Any:
    """Train a classifier, from a trained backbone or anew.

    Example: titans-seq genomics finetune train.csv --out runs/promoters --backbone runs/genome
    """
    from titans_seq.recipe import build
    from titans_seq.run import train as run_train

    data = {
        "kind": "sequences",
        "train": absolute(train),
        "validation": absolute(validation) if validation else None,
        "labels": absolute(labels) if labels else None,
        "sequence": sequence_column,
        "label": label_column,
    }
    content = {
        "data": data,
        "task": {"kind": task},
        "training": {"batch_size": 64, **({} if sets_length(settings) else {"epochs": 5})},
        "seed": seed,
        "threads": threads,
        **backbone_of(start, config, "dna_tiny"),
    }
    recipe = build(content, settings or [], "the command line")
    return run_train(recipe, out, resume=resume, overwrite=overwrite, device=device, dry_run=dry_run)


@command(app)
def evaluate(
    model: Model,
    table: Annotated[str, typer.Argument(help="Labelled table; for a language model a FASTA.")],
    out: Annotated[Path | None, typer.Option(help="Write the metrics as JSON.")] = None,
    labels: Annotated[str | None, typer.Option(help="Table of id and label, when TABLE is a FASTA.")] = None,
    baseline: Annotated[
        bool, typer.Option(help="Print k-mer logistic regression, fitted to the run's training table, beside.")
    ] = True,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> Any:
    """Measure a model on data it has not seen.

    Example: titans-seq genomics evaluate runs/promoters test.csv
    """
    from titans_seq.cli.top import check_new, write_json
    from titans_seq.genomics import evaluate as run_evaluate

    check_new(out, overwrite)
    found = run_evaluate(
        model,
        table,
        labels=labels,
        device=device,
        threads=threads,
        seed=seed,
        batch_size=batch_size,
        baseline=baseline,
        dry_run=dry_run,
    )
    write_json(found, out)
    return found


@command(app)
def predict(
    model: Model,
    path: Input,
    out: Annotated[Path, typer.Option(help="File to write: .csv .tsv .jsonl .parquet")],
    state_in: StateIn = None,
    state_out: StateOut = None,
    reset: Reset = "record",
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> Any:
    """Predict every record: class probabilities, or for a language model its likelihood. Any length, in flat memory.

    Example: titans-seq genomics predict runs/promoters genome.fa.gz --out predictions.tsv
    """
    from titans_seq.genomics import predict as run_predict

    return run_predict(
        model,
        path,
        out,
        state_in=state_in,
        state_out=state_out,
        reset=reset,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        device=device,
        threads=threads,
        seed=seed,
        batch_size=batch_size,
    )


@command(app)
def score(
    model: Model,
    path: Annotated[str, typer.Argument(metavar="FASTA", help="FASTA; - is stdin.")],
    out: Annotated[Path, typer.Option(help="File to write: .bedgraph or .bw of one track, or .parquet")],
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="loglik|entropy|surprise",
            help="ln p of each base in nats (the default), entropy in nats, or surprise; .parquet has all by itself.",
        ),
    ] = None,
    state_in: StateIn = None,
    state_out: StateOut = None,
    reset: Reset = "record",
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> Any:
    """Score every base under a language model: a track along the genome. Any length, in flat memory.

    Surprise is the norm of the gradient that a base gives the memory. N has no value.

    Example: titans-seq genomics score runs/genome genome.fa.gz --out loglik.bw --reset N:1000
    """
    from titans_seq.genomics import score as run_score

    return run_score(
        model,
        path,
        out,
        tracks=track or (),
        state_in=state_in,
        state_out=state_out,
        reset=reset,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        device=device,
        threads=threads,
        seed=seed,
        batch_size=batch_size,
    )


@command(app)
def embed(
    model: Model,
    path: Input,
    out: Annotated[Path, typer.Option(help="File to write: .parquet .npz")],
    state_in: StateIn = None,
    state_out: StateOut = None,
    reset: Reset = "record",
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> Any:
    """Turn every record into a vector: the mean of the backbone's last hidden rows. Any length, in flat memory.

    Example: titans-seq genomics embed runs/genome genes.fa --out genes.parquet
    """
    from titans_seq.genomics import embed as run_embed

    return run_embed(
        model,
        path,
        out,
        state_in=state_in,
        state_out=state_out,
        reset=reset,
        resume=resume,
        overwrite=overwrite,
        dry_run=dry_run,
        device=device,
        threads=threads,
        seed=seed,
        batch_size=batch_size,
    )


@command(app)
def generate(
    model: Model,
    length: Annotated[int, typer.Option(min=1, help="Bases to write behind the prompt, which is not repeated.")],
    out: Annotated[Path, typer.Option(help="FASTA to write: .fa .fasta .fna")],
    prompt: Annotated[str, typer.Option(metavar="SEQ", help="Bases that were read before.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="Records to write.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="Below 1 the likely come oftener; 0 draws nothing.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=1, max=4, help="Draw from so many of the likeliest bases.")] = 4,
    state_in: StateIn = None,
    device: Device = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> Any:
    """Let a language model write DNA, base by base, in flat memory; only A, C, G and T.

    Example: titans-seq genomics generate runs/genome --prompt ACGTACGT --length 1000 --out new.fa --seed 7
    """
    from titans_seq.genomics import generate as run_generate

    return run_generate(
        model,
        out,
        prompt=prompt,
        length=length,
        samples=samples,
        temperature=temperature,
        top_k=top_k,
        state_in=state_in,
        overwrite=overwrite,
        dry_run=dry_run,
        device=device,
        threads=threads,
        seed=seed,
        batch_size=batch_size,
    )
