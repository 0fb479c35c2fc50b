"""The verbs of sequences: predict, score, embed, generate."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from titans_seq.checkpoint import SequenceModel, load_config
from titans_seq.data.arrays import EmbeddingFile, Precision, TokenFile, TrackFile, bigwig_tools
from titans_seq.data.fasta import Block, read_blocks
from titans_seq.data.intervals import interval_kind
from titans_seq.data.record import Record, Tally, encode, quoted
from titans_seq.data.regions import Regions
from titans_seq.data.reset import Reset, reset_rule
from titans_seq.data.sequences import WHOLE, each_sequence, is_fasta, read_sequences
from titans_seq.data.windows import BEGIN
from titans_seq.data.write import FastaFile, PartFile, RowFile
from titans_seq.errors import InputError, ModelError, UsageError, warn
from titans_seq.job import (
    Job,
    SharedJob,
    about,
    check_state_files,
    dry,
    finished,
    identity,
    must_differ,
    reading_of,
    write,
)
from titans_seq.memory import surprised
from titans_seq.memory_state import load_state, save_state
from titans_seq.resources import data_file, is_there
from titans_seq.stream import Point, Steps, prefetch
from titans_seq.stream.generation import Sampling, begun, generation_steps
from titans_seq.stream.sequences import sequence_steps, units_of
from titans_seq.stream.tracks import TRACKS, position_steps, token_steps, track_steps
from titans_seq.stream.walk import (
    TOGETHER,
    Carried,
    Course,
    Stream,
    advance,
    block_size,
    carried_template,
    learned_start,
    settled,
)
from titans_seq.tasks.language import LanguageHead
from titans_seq.tasks.pooling import Embedder, PoolingKind

GENERATED = 1 << 14  # bases between points of what is generated: some seconds' work, base by base


@dataclass(frozen=True)
class Reading(SharedJob):
    """Options of every verb that reads sequences of any length."""

    regions: Mapping[str, Any] = field(default_factory=dict)  # fields of `Regions` that are asked for
    state_in: Path | None = None  # where records start from
    state_out: Path | None = None  # gets the memory after the last record
    reset: str = "record"  # when the memory begins anew: `titans_seq.data.reset.Reset`
    both_strands: bool = False  # average what a record and its other strand give


# What training was told of how to cut sequences and holds for other files too; what it left out is not left out here.
CUT_ALIKE = ("reference", "aliases", "feature", "window", "stride")


def regions_for(source: str, path: Path, given: Mapping[str, Any]) -> Regions:
    """How sequences are cut out of a genome for a model: as is asked for, else as its training did.

    Raises:
        UsageError: if it is asked for and ``path`` is FASTA, whose records are read whole.
    """
    if is_fasta(path) and not path.is_dir():
        if given:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UsageError(
                f"{path} is FASTA, whose records are read whole; {options} cut intervals out of a genome. Leave that "
                "out, or give the intervals in its place and the genome with --reference."
            )
        return WHOLE
    trained = reading_of(source).get("regions", {})
    alike = {name: trained[name] for name in CUT_ALIKE if trained.get(name)}
    gone = {name for name in ("reference", "aliases") if name in alike and not is_there(alike[name])}
    return Regions(**{name: value for name, value in alike.items() if name not in gone} | dict(given))


class _Job(NamedTuple):
    """What a verb makes of records."""

    steps: Callable[[Iterable[Block], Point], Steps]
    template: Callable[[Point], Carried]


def predict(source: str, path: str, out: Path, *, track: str | None = None, **options: Any) -> dict[str, Any]:
    """Predict every record of a FASTA or table with a sequence model, into ``out``.

    Args:
        source: the model.
        path: FASTA or table.
        out: a table of a row a record; of a task that answers along the sequence .parquet, or .bedgraph or .bw of one
            of its tracks.
        track: which one.
        options: of `Reading`.
    """
    reading = Reading(**options)
    task = load_config(source)[2]
    if hasattr(task, "tracks"):
        return _predict_along(source, path, out, reading, task, track)
    if track is not None:
        raise UsageError(f"--track {track}: task {task.kind} has no tracks. Leave it out.")

    def job(model: SequenceModel, course: Course) -> _Job:
        if not hasattr(model.task, "columns"):
            raise ModelError(
                f"{source} is a model of task {model.task.kind}, which says nothing of a record as it stands. "
                "Measure it with evaluate, or use its backbone: embed, or finetune --backbone."
            )
        return _Job(
            lambda blocks, point: sequence_steps(
                model, blocks, reading.batch_size, point, course, None, reading.both_strands
            ),
            lambda _: carried_template(model),
        )

    return _read(source, path, out, reading, RowFile, job)


def _predict_along(source: str, path: str, out: Path, reading: Reading, task: Any, track: str | None) -> dict[str, Any]:
    """Predict along every record: tracks, a value a base."""
    names = task.track_names
    if track is not None and track not in names:
        raise UsageError(f"--track {track} is none of this model's. It has {', '.join(names)}.")
    if out.suffix in TrackFile.suffixes[:2] and track is None:
        if len(names) > 1:
            raise UsageError(f"{out} holds one track and the model has {', '.join(names)}. Give --track or .parquet.")
        track = names[0]
    if out.suffix == ".bw":
        bigwig_tools()  # before hours of work

    def job(model: SequenceModel, course: Course) -> _Job:
        return _Job(
            lambda blocks, point: position_steps(
                model, blocks, reading.batch_size, point, course, track, reading.both_strands
            ),
            lambda _: Carried(None, learned_start(model)),
        )

    return _read(source, path, out, reading, TrackFile, job, track=str(track))


def embed(
    source: str,
    path: str,
    out: Path,
    *,
    pooling: PoolingKind = "mean",
    layer: int | None = None,
    per_token: bool = False,
    dtype: Precision = "float32",
    **options: Any,
) -> dict[str, Any]:
    """Hidden rows of the backbone over every record, made one or each by itself, into ``out``.

    Each base is read as it stands, also by a language model: its last base counts too. So a state that a language
    model left is read to its end first, and from one that is written here a language model goes on as at a
    record's begin.

    Args:
        source: the model.
        path: FASTA or table.
        out: .parquet or .npz; `EmbeddingFile` and `TokenFile` say what stands there.
        pooling: what is made of the rows of a record: their mean, the largest of each number, or the last row.
        layer: take the rows behind so many blocks, as the next one gets them; behind all, and normalised, if None.
        per_token: every row by itself.
        dtype: of the numbers.
        options: of `Reading`.
    """
    reading = Reading(**options)
    _must_be_token_rows(reading, pooling, per_token)

    def job(model: SequenceModel, course: Course) -> _Job:
        _stop_after(source, model, layer, reading)
        embedder = Embedder(model.backbone.config.width, pooling)
        start = settled(model, course.start) if reading.state_in else learned_start(model)
        course = course._replace(start=start)
        if per_token:
            return _Job(
                lambda blocks, point: token_steps(model, blocks, reading.batch_size, point, course),
                lambda _: Carried(None, learned_start(model)),
            )
        return _Job(
            lambda blocks, point: sequence_steps(
                model, blocks, reading.batch_size, point, course, embedder, reading.both_strands
            ),
            lambda _: carried_template(model, embedder),
        )

    kind = TokenFile if per_token else EmbeddingFile
    settings = {"pooling": pooling, "layer": str(layer), "per_token": str(per_token), "dtype": dtype}
    return _read(source, path, out, reading, kind, job, partial(kind, precision=dtype), **settings)


def _must_be_token_rows(reading: Reading, pooling: PoolingKind, per_token: bool) -> None:
    if per_token and pooling != "mean":
        raise UsageError(f"--per-token writes every row, and --pooling {pooling} one a record. Give one of them.")
    if per_token and reading.both_strands:
        raise UsageError(
            "--per-token --both-strands would hold every row of a record until its other strand is read. Leave out "
            "one of them."
        )


def _stop_after(source: str, model: SequenceModel, layer: int | None, reading: Reading) -> None:
    """Let a model read with its first blocks alone, where that is asked for."""
    blocks = len(model.backbone.blocks)
    if layer is None or layer == blocks:
        return
    if layer > blocks:
        raise UsageError(f"--layer {layer}: {source} has {blocks} blocks. Give 1 to {blocks}.")
    if reading.state_in or reading.state_out:
        raise UsageError(
            f"--layer {layer} reads with {layer} of {blocks} blocks, and a state file is of all. Leave out --layer, or "
            "--state-in and --state-out."
        )
    model.backbone.stop_after(layer)


def score(source: str, path: str, out: Path, *, tracks: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    """Tracks of a language model, a value a base, into ``out``; options are of `Reading`.

    Args:
        source: the model.
        path: FASTA.
        out: .bedgraph or .bw, of one track, or .parquet.
        tracks: of `TRACKS`; if none, the log-likelihood, in .parquet all that the model has.
        options: of `Reading`.
    """
    reading = Reading(**options)
    if unknown := [track for track in tracks if track not in TRACKS]:
        raise UsageError(f"--track {unknown[0]} is none. Give {', '.join(TRACKS)}.")
    if out.suffix in TrackFile.suffixes[:2] and len(tracks) > 1:
        raise UsageError(f"{out} holds one track and {' and '.join(tracks)} are asked for. Write .parquet.")
    if out.suffix == ".bw":
        bigwig_tools()  # before hours of work

    def job(model: SequenceModel, course: Course) -> _Job:
        _must_be_language_model(source, model)
        wanted = tuple(tracks) or tracks_of(model, out)
        if "surprise" in wanted and "surprise" not in tracks_of(model):
            raise UsageError(
                f"{source} has no memory whose surprise is recorded, but attention, an exact matrix memory or gates by "
                "chunk. Give --track loglik or entropy."
            )
        return _Job(
            lambda blocks, point: track_steps(
                model, blocks, reading.batch_size, point, course, wanted, reading.both_strands
            ),
            lambda _: Carried(None, learned_start(model)),
        )

    return _read(source, path, out, reading, TrackFile, job, tracks=",".join(tracks))


def tracks_of(model: SequenceModel, out: Path | None = None) -> tuple[str, ...]:
    """Tracks that a model has, or those of them that a file gets by itself."""
    if out is not None and out.suffix != ".parquet":
        return TRACKS[:1]
    return tuple(track for track in TRACKS if track != "surprise" or surprised(model))


def _must_be_language_model(source: str, model: SequenceModel) -> None:
    if not isinstance(model.head, LanguageHead):
        raise ModelError(
            f"{source} is a model of task {model.task.kind}, and this needs a language model, which predicts each base "
            "from those before it. Train one with `titans-seq genomics pretrain`."
        )


def _read(
    source: str,
    path: str,
    out: Path,
    reading: Reading,
    kind: type[PartFile],
    job: Callable[[SequenceModel, Course], _Job],
    made: Callable[[Path, int], PartFile] | None = None,
    **settings: str,
) -> dict[str, Any]:
    """Read the records of ``path`` into ``out``, the memory going from one to the next as ``reading`` says.

    ``out`` is a file of ``kind``, which ``made`` begins where it takes more than its name.
    """
    resume, state_out = reading.resume, reading.state_out
    must_differ(out, "--state-out", state_out)
    inputs = [path, *(str(file) for file in (reading.regions.get("reference"), reading.state_in) if file)]
    if finished(out, reading, source, inputs, kind.suffixes):
        if state_out is not None and not state_out.is_file():
            raise UsageError(f"{out} is finished and {state_out} is not there. To make it again add --overwrite.")
        return {"out": str(reading.target(out)), "already_finished": True}
    check_state_files(reading.state_in, state_out, reading.overwrite or resume)
    file = data_file(path)
    if resume and not file.is_file():
        raise UsageError("--resume needs the input as a file: what came through stdin or a pipe is gone.")
    if reading.part and not (file.is_file() or file.is_dir()):
        raise UsageError("--shard needs the input as a file: it is read twice, to share it out and to do the work.")
    reset = reset_rule(reading.reset)
    model = reading.load(source, "genomics")
    reading.refuse_state(bool(reading.state_in or state_out) or reset.at != "record")
    course = Course(_start(source, model, reading.state_in), reset, state_out is not None)
    if course.alone or reading.state_in:
        _must_be_causal(source, model)
    _must_cut_at_words(source, model, reset)
    if reading.both_strands and (reading.state_in or course.keep or reset.at == "never"):
        raise UsageError(
            "--both-strands reads each record from its end too, and no memory is carried there. "
            "Leave out --state-in, --state-out and --reset never."
        )
    steps, template = job(model, course)
    size = block_size(model.backbone.config, getattr(model.task, "bin", 1))
    sequence = reading_of(source).get("sequence")
    regions = WHOLE if file.is_dir() else regions_for(source, file, reading.regions)
    if kind is TrackFile and out.suffix in TrackFile.suffixes[:2] and regions.reference is not None:
        raise UsageError(
            f"{out}: a {out.suffix} stands in a genome's coordinates, and an interval is read as a record of its own, "
            "along its strand. Write .parquet, which names the interval, or give the FASTA in the place of intervals."
        )

    def records_of() -> Iterator[Block]:
        blocks = blocks_of(file, size, sequence, regions)
        return _must_be_whole(source, path, blocks) if model.backbone.config.whole else blocks

    if reading.dry_run:
        lengths = [block.start + len(block.codes) for block in records_of() if block.last]
        return dry(model, records=len(lengths), bases=sum(lengths))
    made_of = [file, *regions.files(), *([reading.state_in] if reading.state_in else [])]
    options = {"batch_size": reading.batch_size, "reset": reset, "state_out": state_out, **settings}
    options |= {} if regions == WHOLE else {"regions": regions.model_dump_json()}
    options |= {"both_strands": True} if reading.both_strands else {}
    last = Point()

    def keep(point: Point) -> None:
        nonlocal last
        last = point
        if state_out is not None:
            save_state(point.carried.stream, state_out, about(source))

    rows = write(
        out,
        lambda point: steps(prefetch(records_of()), point),
        identity(source, made_of, **options),
        job=reading,
        units=lambda: units_of(records_of(), reading.batch_size, model.backbone.config.padded, reading.both_strands),
        template=template,
        kind=made or kind,
        at_end=keep,
    )
    found = {"out": str(reading.target(out)), "records": rows if reading.part else last.done, "bases": last.tokens}
    found |= {"rows": rows} if kind in (TrackFile, TokenFile) and not reading.part else {}
    return found | ({"state": str(state_out)} if state_out else {})


def _start(source: str, model: SequenceModel, state_in: Path | None) -> Stream:
    """Where records start: the learned memory, or that of a state file."""
    learned = learned_start(model)
    if state_in is None:
        return learned
    start: Stream = load_state(state_in, learned, about(source)["model"])
    if not 0 <= start.previous <= getattr(model.head, "highest", BEGIN):
        raise ModelError(f"{state_in} holds the token {start.previous}, which is none. Make the state again.")
    return start


def _must_be_whole(source: str, path: str, blocks: Iterable[Block]) -> Iterator[Block]:
    """Blocks that each are a record."""
    for block in blocks:
        if block.start or not block.last:
            raise InputError(
                f"{path}: record {quoted(block.id)} has more than {TOGETHER:,} bases, and {source} reads each record "
                "as a whole, from both ends. Cut it into windows, or use a model that reads forward."
            )
        yield block


def _must_be_causal(source: str, model: SequenceModel) -> None:
    if model.backbone.config.whole:
        how = "from both ends (backbone.direction both)"
        if model.backbone.config.equivariant:
            how = "along both strands (backbone.equivariant)"
        raise ModelError(
            f"{source} reads each record as a whole, {how}, so it has no memory to carry on. "
            "Leave out --state-in, --state-out and --reset, or use a model that reads forward."
        )
    if not model.backbone.config.causal:
        raise UsageError(
            f"{source} reads each segment to its end before it answers (block mode 'paper'), so its memory cannot be "
            "carried on from anywhere. Leave out --state-in, --state-out and --reset, or use a causal backbone."
        )


def _must_cut_at_words(source: str, model: SequenceModel, reset: Reset) -> None:
    word = model.backbone.config.embedding.stride
    if word > 1 and (reset.at == "N" or reset.length % word):
        raise UsageError(
            f"--reset {reset}: {source} reads words of {word} bases side by side, and this may begin anew inside "
            f"one. Give record, never, or every:LENGTH with a multiple of {word}."
        )


def generate(
    source: str,
    out: Path,
    *,
    length: int,
    prompt: str = "",
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int = 4,
    state_in: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Let a language model write ``length`` bases behind a prompt, base by base, into the FASTA ``out``.

    Memory does not grow with ``length``. A sample depends on the seed and its own number, not on how many there are.
    A job that is killed and resumed gives the bases of one that was not.

    Args:
        source: the model.
        out: gets a record a sample, of the new bases alone.
        length: bases to write.
        prompt: what was read before; nothing, at a record's begin.
        samples: records to write.
        temperature: the logits are divided by it; 0 takes the likeliest base each time.
        top_k: draw from so many of the likeliest bases.
        state_in: memory to go on from.
        options: of `Job`; the seed is that of what is drawn, and a batch samples written side by side.
    """
    job = Job(**options)
    if finished(out, job, source, [], FastaFile.suffixes):
        return {"out": str(out), "already_finished": True}
    check_state_files(state_in, None, False)
    tally = Tally()
    codes = encode(prompt, where="--prompt", tally=tally)
    tally.tell("--prompt", warn)
    model = job.load(source, "genomics")
    _must_be_language_model(source, model)
    _must_be_causal(source, model)
    start = _start(source, model, state_in)
    if job.dry_run:
        return dry(model, bases=samples * length)
    sampling = Sampling(length, samples, temperature, top_k, job.seed, job.batch_size)
    start, opened = _prompted(model, start, codes)
    note = f"seed={job.seed} temperature={temperature:g} top_k={top_k} prompt={len(codes)}"
    write(
        out,
        lambda point: generation_steps(model, start, opened, sampling, point),
        identity(source, [state_in] if state_in else [], prompt=prompt, **sampling._asdict()),
        job=job,
        template=lambda point: begun(model, start, len(sampling.numbers(point.done))),
        kind=partial(FastaFile, header=lambda number: f"sample_{number + 1} {note}"),
        total=samples * length,
        save_every=GENERATED,
    )
    return {"out": str(out), "samples": samples, "bases": samples * length}


@torch.inference_mode()
def _prompted(model: SequenceModel, start: Stream, codes: np.ndarray) -> tuple[Stream, np.ndarray]:
    """The stream behind the whole words of a prompt, and the codes of one that it leaves open."""
    whole = len(codes) // model.head.word * model.head.word
    size = block_size(model.backbone.config)
    for first in range(0, whole, size):
        _, _, start = advance(model, model.head, codes[first : min(first + size, whole)], start)
    return start, codes[whole:]


def blocks_of(
    path: Path, size: int, sequence: str | None = None, regions: Regions = WHOLE, keep_case: bool = False
) -> Iterator[Block]:
    """Records of a FASTA, of a table of sequences, or of intervals on a genome, in blocks of ``size`` bases.

    With ``keep_case`` codes of a FASTA have `LOWER` where it is in lower case.
    """
    if is_fasta(path) or path.is_dir():
        yield from read_blocks(path, size=size, keep_case=keep_case)
        return
    found: Iterable[Record]
    if interval_kind(path):
        found = each_sequence(path, regions=regions)
    else:
        found = read_sequences(path, sequence=sequence, need_labels=False, regions=regions)
    for number, record in enumerate(found):
        starts = range(0, max(1, len(record)), size)
        for start in starts:
            codes = record.codes[start : start + size]
            yield Block(number, record.id, start, codes, start == starts[-1], record.chrom)
