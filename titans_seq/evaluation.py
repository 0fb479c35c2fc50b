"""The verb evaluate of sequences: a model beside its baselines, with intervals, on all of a test set and on parts."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from titans_seq.baselines import KMERS, Markov
from titans_seq.bootstrap import MODEL, RESAMPLES, Compared, Rows, compare, compare_parts
from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.fasta import Block
from titans_seq.data.record import LOWER, decode
from titans_seq.data.regions import Regions
from titans_seq.data.sources import SOURCES
from titans_seq.data.subset import rows_in
from titans_seq.data.windows import LabelledSequences, N, reverse_complement
from titans_seq.errors import InputError, TitansError, UsageError, warn
from titans_seq.genomics import blocks_of, regions_for, tracks_of
from titans_seq.job import data_of, dry, keep, load, reading_of
from titans_seq.progress import Progress
from titans_seq.resources import data_file, located, whole_paths
from titans_seq.stream import Point, prefetch
from titans_seq.stream.tracks import track_steps
from titans_seq.stream.walk import Course, block_size, learned_start
from titans_seq.training.evaluation import answers

MARKOV = "interpolated_markov"
CHROMOSOMES = 100  # more parts than this are records, not chromosomes
REGION = 8192  # bases along which a report draws tracks


def evaluate(
    source: str,
    path: str,
    *,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    baseline: bool = True,
    labels: str | None = None,
    label: str | list[str] | None = None,
    both_strands: bool = False,
    regions: Mapping[str, Any] = MappingProxyType({}),
    leak_free: str | None = None,
    resamples: int = RESAMPLES,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Metrics of a sequence model on a labelled table, or of a language model on a FASTA.

    What is found is kept in the model's run folder, if it has one, with a region's tracks, for the run's report.
    A model that is a run stands beside baselines fitted to the run's training part. Intervals resample records; of a
    language model stretches of 4,096 bases, since a genome may be one record.

    Args:
        source: the model.
        path: labelled table or FASTA.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads.
        seed: of the resamples.
        batch_size: records read side by side.
        baseline: fit and show baselines.
        labels: table of id and label, when ``path`` has no labels.
        label: its column of labels, or several; as in training if not given.
        both_strands: measure the mean of what each sequence and its other strand give.
        regions: fields of `titans_seq.data.regions.Regions`; as in training where not given.
        leak_free: table of the rows that are in no way in the training data; these are measured alone too.
        resamples: of the bootstrap; 0 gives no intervals.
        dry_run: check, measure nothing.
    """
    model = load(source, "genomics", device, threads, seed)
    kind, cut = SOURCES[model.task.data], regions_for(source, data_file(path), regions)
    how: dict[str, Any] = {
        "both_strands": both_strands,
        "regions": whole_paths(cut).model_dump_json(exclude_defaults=True),
        "labels": located(labels) if labels else None,
        "label_columns": json.dumps([label] if isinstance(label, str) else label) if label else None,
        "leak_free": located(leak_free) if leak_free else None,
        "resamples": None if resamples == RESAMPLES else resamples,
        "seed": seed or None,
        "baseline": baseline,
    }
    how = {name: value for name, value in how.items() if value is not None}
    if kind.streamed and leak_free:
        raise UsageError(f"--leak-free is for labelled rows; {source} is a model of task {model.task.kind}.")
    if kind.streamed and model.task.causal:
        if dry_run:
            return dry(model, files=1)
        compared, blocks = _stream(model, source, path, cut, batch_size, baseline, both_strands)
        records = {block.record for block in blocks}
        found = {**compare(compared, seed=seed, resamples=resamples), "items": len(records)}
        found |= _by_chromosome(
            compared, [block.chrom or block.id for block in blocks], [block.record for block in blocks]
        )
        keep(source, "evaluate", path, found, lambda: _region_of_genome(model, blocks, both_strands), **how)
        return found
    beside = {name: value for name, value in (("labels", labels), ("label", label)) if value}
    more = {} if kind.streamed else beside | {"regions": cut}
    data = kind.of_file(path, **reading_of(source) | more)
    items = data.evaluation(model.task)
    if dry_run:
        return dry(model, items=len(items))
    clean = rows_in(data_file(leak_free), items.records) if leak_free else None
    measured = answers(model, items, batch_size, "evaluating", both_strands)
    if not isinstance(items, LabelledSequences):  # windows of a genome, with masks
        found = compare(Compared({MODEL: measured}, model.task.metrics, len(items)), seed=seed, resamples=resamples)
        keep(source, "evaluate", path, found, **how)
        return found
    rows = {MODEL: measured, **(_baselines(model.task, source, items) if baseline else {})}
    rows = {name: model.task.prepared(own) for name, own in rows.items()}
    compared = Compared(rows, model.task.metrics, len(items))
    found = compare(compared, seed=seed, resamples=resamples)
    found["details"] = model.task.details(measured)
    if clean is not None:
        if not clean.any():
            raise InputError(f"{leak_free} names no row, so there is nothing to measure without leaks.")
        found["leak_free"] = compare(compared.part(clean), seed=seed, resamples=resamples)
    found |= _by_chromosome(compared, [record.chrom or "" for record in items.records], range(len(items)))

    def drawn() -> dict[str, Any]:
        return _region_of_record(model, items, both_strands) if model.task.along else {}

    keep(source, "evaluate", path, found, drawn, **how)
    return found


def _by_chromosome(compared: Compared, chromosomes: list[str], records: Sequence[int]) -> dict[str, Any]:
    """Scores of each chromosome, where there are several; of each unit its chromosome and its record."""
    names = list(dict.fromkeys(chromosomes))
    if not 1 < len(names) <= CHROMOSOMES or "" in names:
        return {}
    groups = np.array(chromosomes)
    parts = compare_parts(compared, {name: groups == name for name in names})
    counts = Counter(name for name, _ in dict.fromkeys(zip(chromosomes, records, strict=True)))
    return {"chromosomes": {name: {"items": counts[name], **part} for name, part in parts.items()}}


# --- labelled sequences


def _baselines(task: Any, source: str, items: LabelledSequences) -> dict[str, Rows]:
    """What the metrics need of what a task is measured beside, fitted to the run's training table."""
    data = data_of(source)
    if data is None:
        return {}
    try:
        train = data.evaluation(task)
    except TitansError as error:  # the training table may be gone or changed since
        warn(f"There is no baseline beside the model: {error}")
        return {}
    same = task.same(train.targets)
    found = {task.constant: _answered(task, items, [same] * len(items))}
    if task.kmers is not None:
        found[task.kmers] = _answered(task, items, KMERS[task.kmers](train, items, len(same)))
    return found


def _answered(task: Any, items: LabelledSequences, predictions: Any) -> Rows:
    """What the metrics need of a prediction a record; along a sequence it is the same for every place."""
    parts = []
    for prediction, target in zip(predictions, items.targets, strict=True):
        said = np.broadcast_to(prediction, (len(target), len(prediction))) if task.along else prediction
        parts.append(task.rows(said[None], target[None]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# --- genomes


def _stream(
    model: SequenceModel,
    source: str,
    path: str,
    regions: Regions,
    batch_size: int,
    baseline: bool,
    both_strands: bool,
) -> tuple[Compared, list[Block]]:
    """What the metrics need of every stretch of bases that is read at once, and these.

    Each record is read as one stream, the memory carried from block to block.
    """
    held: list[Block] = []  # a byte a base, also of its case

    def blocks() -> Iterator[Block]:
        size = block_size(model.backbone.config)
        for block in blocks_of(data_file(path), size, regions=regions, keep_case=True):
            if len(block.codes):
                held.append(block)
            yield replace(block, codes=block.codes & (LOWER - 1))

    course, point = Course(learned_start(model)), Point()
    said: dict[str, list[np.ndarray]] = {MODEL: []}
    with Progress("evaluating", "tokens", None) as progress:
        for rows, after in track_steps(model, prefetch(blocks()), batch_size, point, course, ("loglik",), both_strands):
            said[MODEL] += [row["values"][0] for row in rows]
            progress.add(after.tokens - point.tokens)
            point = after
    if not any(np.isfinite(loglik).any() for loglik in said[MODEL]):
        raise InputError(f"{path}: no base A, C, G, T to measure on. Give other records.")
    if baseline and (training := _training_records(source, model)):
        said[MARKOV] = _markov(held, *training)
    rows_of = {name: _likelihoods(held, logliks) for name, logliks in said.items()}
    return Compared(rows_of, model.task.metrics, len(held)), held


def _likelihoods(held: list[Block], logliks: list[np.ndarray]) -> Rows:
    """What the metrics of a language model need of ln p (n,) of each block's bases, some in lower case."""
    rows = []
    for block, loglik in zip(held, logliks, strict=True):
        known, lower = block.codes & (LOWER - 1) < N, block.codes >= LOWER
        within = known & lower
        nats = loglik.sum(where=known, dtype=np.float64), loglik.sum(where=within, dtype=np.float64)
        rows.append((*nats, known.sum(), within.sum()))
    names = ("log_likelihood", "repeat_log_likelihood", "scored_bases", "repeat_bases")
    return dict(zip(names, np.array(rows, np.float64).T, strict=True))


def _training_records(source: str, model: SequenceModel) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Codes of the records that a run was trained on and of those that chose its weights; None where they are gone."""
    data = data_of(source)
    if data is None:
        return None
    try:
        parts = data.parts(model.task, 0)
    except TitansError as error:
        warn(f"There is no baseline beside the model: {error}")
        return None
    train, validation = ([r.codes & (LOWER - 1) for r in part.records] for part in (parts.train, parts.validation))
    return train, validation


def _markov(held: list[Block], train: list[np.ndarray], validation: list[np.ndarray]) -> list[np.ndarray]:
    """ln p of each block's bases under the Markov model of the order that is best on the validation records."""
    markov = Markov(train)
    order = markov.best_order(validation)
    found: list[np.ndarray] = []
    for _, group in groupby(held, lambda block: block.record):
        codes = [block.codes & (LOWER - 1) for block in group]
        ends = np.cumsum([len(part) for part in codes])
        found += np.split(markov.loglik(np.concatenate(codes), order), ends[:-1])
    return found


# --- a region to draw


def _region_of_genome(model: SequenceModel, held: list[Block], both_strands: bool) -> dict[str, Any]:
    """Tracks along the first stretch of a genome that is mostly known, read from the learned memory."""
    first = next((i for i, block in enumerate(held) if (block.codes & (LOWER - 1) < N).mean() > 0.5), 0)
    record = [block for block in held[first:] if block.record == held[first].record]
    codes = np.concatenate([block.codes & (LOWER - 1) for block in record])[:REGION]
    size, names = block_size(model.backbone.config), tracks_of(model)
    blocks = [
        Block(0, held[first].id, at, codes[at : at + size], at + size >= len(codes))
        for at in range(0, len(codes), size)
    ]
    steps = track_steps(model, blocks, 1, Point(), Course(learned_start(model)), names, both_strands)
    values = np.concatenate([row["values"] for rows, _ in steps for row in rows], 1)
    return _region(held[first].id, held[first].start, 1, codes, dict(zip(names, values, strict=True)))


@torch.inference_mode()
def _region_of_record(model: SequenceModel, items: LabelledSequences, both_strands: bool) -> dict[str, Any]:
    """Tracks along the longest record, and what its label says they are."""
    number = max(range(len(items)), key=lambda i: len(items.records[i]))
    record, task = items.records[number], model.task
    batch = to_tensors(items.collate([items.item(number, None)]), next(model.parameters()).device)
    output = model.of_both_strands(batch) if both_strands else model(batch)
    values, labels = task.tracks(output)[0].cpu().numpy(), task.target_tracks(items.targets[number])
    most = REGION // task.bin
    drawn, codes, start = [part[:, :most] for part in (values, labels)], record.codes[: most * task.bin], 0
    if record.start is not None:
        start = record.start
        if record.strand == "-":  # positions are the genome's, and go up
            start += len(record) - len(codes)
            drawn, codes = [part[:, ::-1] for part in drawn], reverse_complement(codes)
    tracks, observed = (dict(zip(task.track_names, part, strict=True)) for part in drawn)
    return _region(record.id, start, task.bin, codes, tracks, observed)


def _region(
    name: str,
    start: int,
    bin: int,
    codes: np.ndarray,
    tracks: Mapping[str, np.ndarray],
    observed: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, Any]:
    """What a report draws along a sequence: values a bin, by track, of four digits."""

    def short(values: np.ndarray) -> list[float]:
        return [float(f"{value:.4g}") for value in values]

    found = {
        "id": name,
        "start": start,
        "bin": bin,
        "bases": decode(codes),
        "tracks": {track: short(values) for track, values in tracks.items()},
        "observed": {track: short(values) for track, values in observed.items()},
    }
    return {"region": found}
