"""``titans-seq genomics``: sequences."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from titans_seq.cli.command import (
    Config,
    Model,
    Overwrite,
    Run,
    Start,
    StateIn,
    absolute,
    backbone_of,
    command,
    sets_length,
    weights_of,
)
from titans_seq.cli.options import BothStrands, Cutting, Measuring, Sharing, Streaming, Training, Writing

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Input = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="FASTA or table of sequences; with --reference BED, narrowPeak, GFF, GTF or a table with chrom, start and "
        "end; - is a FASTA on stdin.",
    ),
]


def _one_or_more(columns: list[str] | None) -> Any:
    """One column as its name, several as a list."""
    return columns[0] if columns and len(columns) == 1 else columns


@command(app)
def audit(
    path: Annotated[
        str,
        typer.Argument(
            metavar="TABLE|FASTA|DIR",
            help="FASTA (- is stdin); a table of sequences; intervals (BED, narrowPeak, GFF, GTF, a table with chrom, "
            "start and end), of whose sequences --reference tells more; a bigWig; or a folder: of one file a class, or "
            "of a data set's splits (train and test, as files or folders).",
        ),
    ],
    *,
    test: Annotated[str | None, typer.Option(help="Test split, when the first is the training split.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the audit as JSON.")] = None,
    leak_free: Annotated[
        Path | None,
        typer.Option(help="Write the test rows that have no leak, for `evaluate`: .csv .tsv .jsonl .parquet"),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with code 3 if there is a problem, a leak or a conflict.")
    ] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="exact|reverse_complement|overlap|near",
            help="Kind of leak to look for; may be repeated. All if not given.",
        ),
    ] = None,
    near: Annotated[
        float,
        typer.Option(
            min=0.2,
            max=1,
            help="Share of 12-letter words that near duplicates have in common, of all that either has. "
            "0.5: about 97 % identical, or shifted by a third of the length.",
        ),
    ] = 0.5,
    sequence_column: Annotated[str | None, typer.Option(help="Column of the sequences; found by itself.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels; found by itself.")] = None,
    cutting: Cutting,
    overwrite: Overwrite = False,
) -> Any:
    """Say what is in a file, and what a test set shares with its training set: copies, reverse complements, overlaps.

    Example: titans-seq genomics audit train.csv --test test.csv --leak-free test_leak_free.csv

    Example: titans-seq genomics audit peaks.bed --reference genome.fa.gz
    """
    from titans_seq.cli.top import check_new, finish_audit
    from titans_seq.data.audit import audit_sequences
    from titans_seq.data.regions import Regions
    from titans_seq.resources import data_file

    check_new(out, overwrite)
    check_new(leak_free, overwrite)
    found = audit_sequences(
        data_file(path),
        None if test is None else data_file(test),
        sequence=sequence_column,
        label=label_column,
        kinds=kind or (),
        near=near,
        leak_free=leak_free,
        regions=Regions(**cutting.regions),
    )
    return finish_audit(found, out, strict and not found.sound)


@command(app)
def pretrain(
    fasta: Annotated[list[str], typer.Argument(help="FASTA files, plain, gzip or bgzip.")],
    out: Run,
    *,
    config: Config = None,
    start: Start = None,
    softmask: Annotated[
        Literal["keep", "ignore", "weight"],
        typer.Option(help="Bases in lower case: targets as all others, none, or of weight 0.1 (none in validation)."),
    ] = "keep",
    task: Annotated[
        str,
        typer.Option(help="language_model: the next base; masked_language_model: masked bases, read from both ends."),
    ] = "language_model",
    training: Training,
) -> Any:
    """Train a backbone to predict the next nucleotide, or masked ones.

    Example: titans-seq genomics pretrain genome.fa.gz --out runs/genome --config dna_small --set training.steps=2000
    """
    from titans_seq.recipe import build
    from titans_seq.run import train

    settings = training.settings or []
    if task == "masked_language_model" and not start:
        settings = ["backbone.direction=both", *settings]
    content = {
        "data": {"kind": "fasta", "paths": [absolute(path) for path in fasta], "softmask": softmask},
        "task": {"kind": task},
        "training": {"batch_size": 8, **({} if sets_length(settings) else {"steps": 1000})},
        "seed": training.seed,
        "threads": training.threads,
        **backbone_of(start, config, "dna_tiny"),
    }
    return train(build(content, settings, "the command line"), out, **training.of_run)


@command(app)
def finetune(
    train: Annotated[
        str,
        typer.Argument(
            help="Table with a label column and one of sequences, or with --reference with chrom, start and end; BED "
            "or GFF, whose label is a column such as name or feature; FASTA with --labels."
        ),
    ],
    out: Run,
    *,
    validation: Annotated[
        str | None, typer.Option(help="Table that chooses the best weights; else a share of TRAIN.")
    ] = None,
    start: Start = None,
    config: Config = None,
    task: Annotated[
        str,
        typer.Option(
            help="classification; multilabel: a;c, with a lone ; for none, or a column of 0 and 1 for each label; "
            "regression: one number or several; segmentation: a class a base; tracks: a list of numbers, one a bin of "
            "bases."
        ),
    ] = "classification",
    labels: Annotated[str | None, typer.Option(help="Table of id and label, in place of labels in TRAIN.")] = None,
    sequence_column: Annotated[str | None, typer.Option(help="Column of the sequences; found by itself.")] = None,
    label_column: Annotated[
        list[str] | None, typer.Option(help="Column of the labels, may be repeated; one is found by itself.")
    ] = None,
    bigwig: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="For --task tracks on intervals: values by bin; may be repeated."),
    ] = None,
    jitter: Annotated[int, typer.Option(min=0, help="Move windows at random, by so many bases at most.")] = 0,
    class_weights: Annotated[
        str | None,
        typer.Option(metavar="balanced|NAME=WEIGHT,...", help="Weights of the classes in the loss; 1 if not given."),
    ] = None,
    head_only: Annotated[bool, typer.Option("--head-only", help="Leave the backbone as it is.")] = False,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train so many runs, from --seed on, into RUN/seed-*, and compare them.")
    ] = 1,
    cutting: Cutting,
    training: Training,
) -> Any:
    """Train on labelled sequences, from a trained backbone or anew.

    Example: titans-seq genomics finetune train.csv --out runs/promoters --backbone runs/genome --seeds 5

    Example: titans-seq genomics finetune peaks.csv --reference genome.fa.gz --window 500 --jitter 50 --out runs/peaks
    """
    from titans_seq.recipe import build
    from titans_seq.run import train as run_train
    from titans_seq.run import train_seeds

    data = {
        "kind": "sequences",
        "train": absolute(train),
        "validation": absolute(validation) if validation else None,
        "labels": absolute(labels) if labels else None,
        "sequence": sequence_column,
        "label": _one_or_more(label_column),
        "bigwig": [absolute(path) for path in bigwig or ()],
        "regions": {**cutting.regions, "jitter": jitter},
    }
    weights = {} if class_weights is None else {"class_weights": weights_of(class_weights)}
    frozen = {"freeze": True} if head_only else {}
    content = {
        "data": data,
        "task": {"kind": task, **weights},
        "training": {"batch_size": 64, **frozen, **({} if sets_length(training.settings) else {"epochs": 5})},
        "seed": training.seed,
        "threads": training.threads,
        **backbone_of(start, config, "dna_tiny"),
    }
    recipe = build(content, training.settings or [], "the command line")
    if seeds == 1:
        return run_train(recipe, out, **training.of_run)
    from titans_seq.report.scores import seeds_table

    found = train_seeds(recipe, out, seeds, **training.of_run)
    return found if training.dry_run else (seeds_table(found), found, 0)


@command(app)
def evaluate(
    model: Model,
    table: Annotated[str, typer.Argument(help="Labelled table or intervals; for a language model also a FASTA.")],
    *,
    out: Annotated[Path | None, typer.Option(help="Write the result as JSON, and a picture beside it as .png.")] = None,
    labels: Annotated[str | None, typer.Option(help="Table of id and label, in place of labels in TABLE.")] = None,
    label_column: Annotated[
        list[str] | None, typer.Option(help="Column of the labels, may be repeated; else as in training.")
    ] = None,
    leak_free: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Rows without a leak, which are measured alone too.")
    ] = None,
    baseline: Annotated[
        bool, typer.Option(help="Show baselines, fitted to the run's training data, beside the model.")
    ] = True,
    resamples: Annotated[int, typer.Option(min=0, help="Of the bootstrap; 0 gives no intervals.")] = 1000,
    both_strands: BothStrands = False,
    cutting: Cutting,
    overwrite: Overwrite = False,
    measuring: Measuring,
) -> Any:
    """Measure a model on data it has not seen, with intervals of 95 %, beside baselines.

    Example: titans-seq genomics evaluate runs/promoters test.csv --leak-free clean.csv --out scores.json
    """
    from titans_seq.cli.top import check_new, write_json
    from titans_seq.evaluation import evaluate as run_evaluate
    from titans_seq.job import must_differ
    from titans_seq.report.scores import score_table

    if out is not None:
        must_differ(out, "the picture", out.with_suffix(".png"))
    for file in (out, out and out.with_suffix(".png")):
        check_new(file, overwrite)
    found = run_evaluate(
        model,
        table,
        labels=labels,
        label=_one_or_more(label_column),
        regions=cutting.regions,
        leak_free=leak_free,
        baseline=baseline,
        resamples=resamples,
        both_strands=both_strands,
        **vars(measuring),
    )
    if measuring.dry_run:
        return found
    write_json(found, out)
    if out is not None:
        from titans_seq.report.plots.scores import scores_plot

        scores_plot(found, out.with_suffix(".png"), title=f"{Path(model).name} on {Path(table).name}")
    return score_table(found), found, 0


@command(app)
def predict(
    model: Model,
    path: Input,
    out: Annotated[
        Path, typer.Option(help="File to write: .csv .tsv .jsonl .parquet; along sequences .parquet .bedgraph .bw")
    ],
    *,
    track: Annotated[str | None, typer.Option(help="For .bedgraph and .bw: which of several tracks.")] = None,
    cutting: Cutting,
    streaming: Streaming,
    writing: Sharing,
) -> Any:
    """Predict every record, of any length in flat memory: classes, numbers, tracks, a language model's likelihood.

    Example: titans-seq genomics predict runs/promoters genome.fa.gz --out predictions.tsv

    Example: titans-seq genomics predict runs/promoters peaks.bed --reference genome.fa.gz --out predictions.tsv
    """
    from titans_seq.genomics import predict as run_predict

    return run_predict(
        model,
        path,
        out,
        track=track,
        regions=cutting.regions,
        **vars(streaming),
        **vars(writing),
    )


@command(app)
def score(
    model: Model,
    path: Annotated[str, typer.Argument(metavar="FASTA", help="FASTA; - is stdin.")],
    out: Annotated[Path, typer.Option(help="File to write: .bedgraph or .bw of one track, or .parquet")],
    *,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="loglik|entropy|surprise",
            help="ln p of each base in nats (the default), entropy in nats, or surprise; .parquet has all by itself.",
        ),
    ] = None,
    streaming: Streaming,
    writing: Sharing,
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
        **vars(streaming),
        **vars(writing),
    )


@command(app)
def embed(
    model: Model,
    path: Input,
    out: Annotated[Path, typer.Option(help="File to write: .parquet .npz")],
    *,
    pooling: Annotated[
        Literal["mean", "max", "last"],
        typer.Option(help="What is made of a record's rows: their mean, the largest of each number, the last row."),
    ] = "mean",
    layer: Annotated[
        int | None, typer.Option(min=1, help="Take the rows behind so many blocks; by itself behind all, normalised.")
    ] = None,
    per_token: Annotated[bool, typer.Option("--per-token", help="Write every row, a token each.")] = False,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="Of the numbers.")] = "float32",
    cutting: Cutting,
    streaming: Streaming,
    writing: Sharing,
) -> Any:
    """Turn every record into a vector: the mean of the backbone's last hidden rows. Any length, in flat memory.

    Example: titans-seq genomics embed runs/genome genes.fa --out genes.parquet

    Example: titans-seq genomics embed runs/genome genes.fa --per-token --layer 1 --dtype float16 --out rows.npz
    """
    from titans_seq.genomics import embed as run_embed

    return run_embed(
        model,
        path,
        out,
        pooling=pooling,
        layer=layer,
        per_token=per_token,
        dtype=dtype,
        regions=cutting.regions,
        **vars(streaming),
        **vars(writing),
    )


@command(app)
def generate(
    model: Model,
    length: Annotated[int, typer.Option(min=1, help="Bases to write behind the prompt, which is not repeated.")],
    out: Annotated[Path, typer.Option(help="FASTA to write: .fa .fasta .fna")],
    *,
    prompt: Annotated[str, typer.Option(metavar="SEQ", help="Bases that were read before.")] = "",
    samples: Annotated[int, typer.Option(min=1, help="Records to write.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="Below 1 the likely come oftener; 0 draws nothing.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=1, max=4, help="Draw from so many of the likeliest bases.")] = 4,
    state_in: StateIn = None,
    writing: Writing,
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
        **vars(writing),
    )


Score = Annotated[
    Literal["llr", "embedding", "prediction"] | None,
    typer.Option(
        help="llr, of a language model: ln of how much likelier the window is with ALT than with REF. embedding: how "
        "far the mean hidden row moves (cosine, L2). prediction: how much each predicted number changes. By itself llr "
        "for a language model, else prediction.",
        show_default=False,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(min=1, help="Bases read around a change; by itself as in the model's training, or else 512."),
]
ChromosomeNames = Annotated[
    str | None, typer.Option("--aliases", metavar="FILE", help="Lines of chromosome names that mean the same.")
]


@command(app)
def variants(
    model: Model,
    path: Annotated[str, typer.Argument(metavar="VCF", help="Variants: .vcf, plain, gzip or bgzip.")],
    reference: Annotated[str, typer.Option(metavar="FASTA", help="Genome that the VCF was made with.")],
    out: Annotated[Path, typer.Option(help="File to write: .vcf .vcf.gz .csv .tsv .jsonl .parquet")],
    *,
    score: Score = None,
    window: Window = None,
    both_strands: BothStrands = False,
    on_ref_mismatch: Annotated[
        Literal["error", "skip", "flag"],
        typer.Option(
            help="A row whose REF is not what FASTA has: refused; left without a score; scored with the VCF's REF, and "
            "without the flag REF_MATCH. Refused in any case where it is several rows and more than 5 % of all."
        ),
    ] = "error",
    aliases: ChromosomeNames = None,
    writing: Sharing,
) -> Any:
    """Score every ALT allele of a VCF: how a model's view of its window changes. SNVs and indels.

    A VCF gets the scores as INFO fields with a number an ALT, a table a row an ALT; both in the order of the input.

    Example: titans-seq genomics variants runs/genome patients.vcf.gz --reference genome.fa.gz --out scored.vcf.gz
    """
    from titans_seq.variants import variants as run_variants

    return run_variants(
        model,
        path,
        out,
        reference=reference,
        on_ref_mismatch=on_ref_mismatch,
        aliases=aliases,
        score=score,
        window=window,
        both_strands=both_strands,
        **vars(writing),
    )


@command(app)
def mutate(
    model: Model,
    fasta: Annotated[str, typer.Argument(metavar="FASTA", help="The genome; - is stdin.")],
    region: Annotated[str, typer.Option(metavar="CHROM:START-END", help="Counted from 1, with both ends in it.")],
    out: Annotated[Path, typer.Option(help="File to write: .csv .tsv .jsonl .parquet, and a picture beside it, .png")],
    *,
    score: Score = None,
    window: Window = None,
    both_strands: BothStrands = False,
    aliases: ChromosomeNames = None,
    writing: Sharing,
) -> Any:
    """Score every single-base change of a region (in-silico saturation mutagenesis): a table, and a heat map.

    Example: titans-seq genomics mutate runs/genome genome.fa.gz --region chr20:1001-1200 --out changes.tsv
    """
    from titans_seq.variants import mutate as run_mutate

    return run_mutate(
        model,
        fasta,
        out,
        region=region,
        aliases=aliases,
        score=score,
        window=window,
        both_strands=both_strands,
        **vars(writing),
    )
