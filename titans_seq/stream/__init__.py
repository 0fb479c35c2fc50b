"""The one engine that carries memory over long input: blocks in, rows out in order, and points to resume from.

A job is a generator of steps. Each step gives the rows that became ready and the `Point` after them; from a
point the same generator can begin again. The engine writes rows and points, so a job that is killed at any
moment and resumed gives the bytes of one that was not.
"""

import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from titans_seq.data.shards import write_shard
from titans_seq.data.write import PartFile, Row, RowFile
from titans_seq.errors import InputError, ModelError, NumericFault
from titans_seq.files import clear_drafts, whole_file
from titans_seq.memory_state import fill_state, state_tensors
from titans_seq.progress import Progress
from titans_seq.signals import watching

SAVE_EVERY = 262_144  # tokens between points: some seconds' work


class Point(NamedTuple):
    """Where a job stands: all rows of what came before are written."""

    done: int = 0  # records or windows finished
    inside: int = 0  # tokens read of the record that is open
    tokens: int = 0  # tokens read in all
    carried: Any = None  # what the job goes on with: of a sequence a `Carried`


Steps = Iterator[tuple[list[Row], Point]]


def prefetch(items: Iterable[Any], ahead: int = 4) -> Iterator[Any]:
    """Read up to ``ahead`` items in a thread while the model works; errors come out where the item would have."""
    line: queue.Queue[tuple[str, Any]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(entry: tuple[str, Any]) -> bool:
        while not stopped.is_set():
            try:
                line.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(("item", item)):
                    return
            put(("end", None))
        except BaseException as error:  # handed over to the reader, whatever it is
            put(("error", error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            kind, value = line.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()


def _save_point(file: Path, point: Point, size: int, identity: dict[str, str]) -> None:
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in state_tensors(point).items()}
    with whole_file(file) as draft:
        save_file(tensors, str(draft), metadata={"size": str(size), "identity": json.dumps(identity, sort_keys=True)})


def _load_point(file: Path, identity: dict[str, str], template: Callable[[Point], Any]) -> tuple[Point, int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt") as saved:
            metadata = saved.metadata()
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118 (it is no dict)
        then, size = dict(json.loads(metadata["identity"])), int(metadata["size"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}. Start anew with --overwrite.") from error
    if changed := [name for name in identity | then if identity.get(name) != then.get(name)]:
        raise InputError(
            f"{file} was left by a run with another {' and '.join(changed)}. Resume with what it began with, "
            "or start anew with --overwrite."
        )
    point: Point = fill_state(Point(), tensors)
    if any(name.startswith("carried") for name in tensors):
        point = fill_state(Point(carried=template(point)), tensors)
    return point, size


def run_stream(
    steps: Callable[[Point], Steps],
    out: Path,
    identity: dict[str, str],
    *,
    resume: bool,
    template: Callable[[Point], Any],
    total: int | None = None,
    save_every: int | None = None,
    kind: Callable[[Path, int], PartFile] = RowFile,
    at_end: Callable[[Point], None] = lambda point: None,
    shard: tuple[range, dict[str, Any]] | None = None,
) -> int:
    """Write what a job yields to ``out``, resuming where it was killed; returns the number of rows.

    Args:
        steps: begins the job at a point.
        out: final file; until the end ``out.part`` and ``out.point`` stand beside it.
        identity: sums of model, input and options; a resume with others is refused.
        resume: go on from ``out.point``, if it is there.
        template: makes what `Point.carried` of a point looks like.
        total: tokens to read, if known, for the progress bar.
        save_every: tokens between points.
        kind: how rows become the file.
        at_end: what else is to be written, from the last point; before ``out`` appears.
        shard: which records or windows to do, and what the file of them, a shard, says of itself; all if None.

    Raises:
        InputError: on resume with another model, input or option.
        Interrupted: after a signal, with a point saved.
    """
    save_every = SAVE_EVERY if save_every is None else save_every
    file = out.with_name(out.name + ".point")
    clear_drafts(out.parent, out.name, file.name)
    if not resume:
        file.unlink(missing_ok=True)
    begin = Point(shard[0].start) if shard else Point()
    point, size = _load_point(file, identity, template) if file.exists() else (begin, 0)
    rows = kind(out, size)
    saved = point.tokens
    try:
        with watching() as watch, Progress(f"writing {out.name}", "tokens", total, point.tokens) as progress:
            for ready, after in () if shard and point.done >= shard[0].stop else steps(point):
                rows.write(ready)
                progress.add(after.tokens - point.tokens)
                point = after
                if watch.caught is not None or point.tokens - saved >= save_every:
                    _save_point(file, point, rows.settle(), identity)
                    saved = point.tokens
                watch.stop(f"{out} is not complete; the same command with --resume goes on.")
                if shard and point.done >= shard[0].stop:
                    break
        _save_point(file, point, rows.settle(), identity)  # what is left to do may be repeated alone
        at_end(point)
        count = rows.finish(partial(write_shard, rows.part, facts=shard[1]) if shard else None)
        file.unlink()
        return count
    finally:
        if not file.exists():  # finished, or failed before there was a point to resume from
            rows.part.unlink(missing_ok=True)
        rows.close()


def left_beside(out: Path) -> list[Path]:
    """What a job that was killed after its last step left beside the finished ``out``."""
    return [file for suffix in (".part", ".point") if (file := out.with_name(out.name + suffix)).exists()]


def must_be_finite(output: Any, names: Iterable[str]) -> None:
    """Refuse what a model says, tensors (B, ...), if a number in it is not finite; each row has its name."""
    for tensor in state_tensors(output).values():
        finite = torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
        if not finite.all():
            raise NumericFault(not_finite(list(names)[int(finite.int().argmin())]))


def not_finite(name: str) -> str:
    """What is said of a row whose numbers are not finite."""
    return (
        f"The model's output is not finite for {name}. Is this input like those it was trained on? "
        "Take it out, or train with a lower training.learning_rate."
    )
