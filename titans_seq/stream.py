"""The one engine that carries memory over long input: blocks in, rows out in order, and points to resume from.

A job is a generator of steps. Each step gives the rows that became ready and the `Point` after them; from a
point the same generator can begin again. The engine writes rows and points, so a job that is killed at any
moment and resumed gives the bytes of one that was not.
"""

import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from titans_seq.backbone import BackboneConfig
from titans_seq.blocks import expand
from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.fasta import Block
from titans_seq.data.record import quoted
from titans_seq.data.reset import Reset
from titans_seq.data.windows import BEGIN, N, SeriesWindows, padded
from titans_seq.data.write import PartFile, Row, RowFile
from titans_seq.errors import InputError, ModelError, NumericFault
from titans_seq.files import clear_drafts, whole_file
from titans_seq.memory import recorded_surprise
from titans_seq.memory_state import MemoryState, fill_state, state_tensors
from titans_seq.progress import Progress
from titans_seq.signals import watching
from titans_seq.tasks.forecasting import Opened, Scaled
from titans_seq.tasks.pooling import Embedder

SAVE_EVERY = 262_144  # tokens between points: some seconds' work
TRACKS = ("loglik", "entropy", "surprise")
BLOCK = 4096  # tokens of a long record that are read at once, or the whole segments in so many
PATCHES = 512  # of a series that are read at once: running sums take the square of it


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


def _load_point(file: Path, identity: dict[str, str], template: Callable[[], Any]) -> tuple[Point, int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt") as saved:
            metadata = saved.metadata()
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}. Start anew with --overwrite.") from error
    then = json.loads(metadata["identity"])
    if changed := [name for name in identity if identity[name] != then.get(name)]:
        raise InputError(
            f"{file} was left by a run with another {' and '.join(changed)}. Resume with what it began with, "
            "or start anew with --overwrite."
        )
    opened = any(name.startswith("carried") for name in tensors)
    point = fill_state(Point(carried=template() if opened else None), tensors)
    return point, int(metadata["size"])


def run_stream(
    steps: Callable[[Point], Steps],
    out: Path,
    identity: dict[str, str],
    *,
    resume: bool,
    template: Callable[[], Any],
    total: int | None = None,
    save_every: int | None = None,
    kind: type[PartFile] = RowFile,
    at_end: Callable[[Point], None] = lambda point: None,
) -> int:
    """Write what a job yields to ``out``, resuming where it was killed; returns the number of rows.

    Args:
        steps: begins the job at a point.
        out: final file; until the end ``out.part`` and ``out.point`` stand beside it.
        identity: sums of model, input and options; a resume with others is refused.
        resume: go on from ``out.point``, if it is there.
        template: makes what `Point.carried` looks like.
        total: tokens to read, if known, for the progress bar.
        save_every: tokens between points.
        kind: how rows become the file.
        at_end: what else is to be written, from the last point; before ``out`` appears.

    Raises:
        InputError: on resume with another model, input or option.
        Interrupted: after a signal, with a point saved.
    """
    save_every = SAVE_EVERY if save_every is None else save_every
    file = out.with_name(out.name + ".point")
    clear_drafts(out.parent, out.name, file.name)
    if not resume:
        file.unlink(missing_ok=True)
    point, size = _load_point(file, identity, template) if file.exists() else (Point(), 0)
    rows = kind(out, size)
    saved = point.tokens
    try:
        with watching() as watch, Progress(f"writing {out.name}", "tokens", total, point.tokens) as progress:
            for ready, after in steps(point):
                rows.write(ready)
                progress.add(after.tokens - point.tokens)
                point = after
                if watch.caught is not None or point.tokens - saved >= save_every:
                    _save_point(file, point, rows.settle(), identity)
                    saved = point.tokens
                watch.stop(f"{out} is not complete; the same command with --resume goes on.")
        _save_point(file, point, rows.settle(), identity)  # what is left to do may be repeated alone
        at_end(point)
        count = rows.finish()
        file.unlink()
        return count
    finally:
        if not file.exists():  # finished, or failed before there was a point to resume from
            rows.part.unlink(missing_ok=True)
        rows.close()


# --- sequences


def _batch(
    codes: list[np.ndarray], previous: list[int], device: torch.device, length: int | None = None
) -> dict[str, Tensor]:
    return to_tensors({"tokens": padded(codes, length), "previous": np.array(previous, np.int64)}, device)


def block_size(config: BackboneConfig) -> int:
    """Bases of a long record that are read at once: whole segments, where a backbone has them."""
    segment = getattr(config.block, "segment", 1)
    return segment * max(1, BLOCK // segment)


class Stream(NamedTuple):
    """A sequence as it is read on: what a state file of sequences holds."""

    memory: MemoryState
    previous: int = BEGIN  # the token that a language model has not read yet; BEGIN where there is none


class Course(NamedTuple):
    """How the memory goes through the records.

    By default each record starts from the learned memory. A record that follows another without a reset is read
    as if it stood right behind it: a language model goes on from its last base.
    """

    start: Stream  # where the stream begins, and what a reset goes back to
    reset: Reset = Reset()
    keep: bool = False  # whether the state after the last record is asked for

    @property
    def alone(self) -> bool:
        """Whether records are read one after another, not side by side."""
        return self.keep or self.reset.at != "record"


class Carried(NamedTuple):
    """What a job goes on with after a block."""

    so_far: Any  # what the head keeps of the open record
    stream: Stream
    run: int = 0  # N at the end of what was read of it


class Head(Protocol):
    """What makes a row of a record's hidden rows: the head of a task, or an `Embedder`."""

    behind: ClassVar[bool]  # whether a row has read the tokens before its own, as in a language model

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        """Tokens (B, T) as the backbone reads them."""

    def start(self, batch: dict[str, Tensor]) -> Any:
        """Nothing read."""

    def fold(self, so_far: Any, hidden: Tensor, batch: dict[str, Tensor]) -> Any:
        """Add one block, hidden (B, T, D)."""

    def result(self, read: Any) -> Any:
        """What a row is made of."""


@torch.inference_mode()
def learned_start(model: SequenceModel) -> Stream:
    """The stream of a model that has read nothing."""
    return Stream(model.backbone.initial_state(1))


def carried_template(model: SequenceModel, head: Head | None = None) -> Carried:
    """What `sequence_steps` carries."""
    return Carried(_nothing(model.head if head is None else head, model), learned_start(model))


def _device(model: SequenceModel) -> torch.device:
    return next(model.parameters()).device


def _nothing(head: Head, model: SequenceModel) -> Any:
    """What a head keeps of one record of which nothing is read."""
    return head.start(_batch([np.zeros(1, np.uint8)], [BEGIN], _device(model)))


def _groups(
    blocks: Iterable[Block], point: Point, batch_size: int, side_by_side: bool, pad: bool
) -> Iterator[list[Block]]:
    """Blocks not read yet, in order: whole records to be read side by side, or one block."""
    waiting: list[Block] = []
    for block in blocks:
        if block.record < point.done or (block.record == point.done and block.start < point.inside):
            continue
        whole = side_by_side and block.start == 0 and block.last
        if waiting and not (whole and (pad or len(block.codes) == len(waiting[0].codes))):
            yield waiting
            waiting = []
        waiting.append(block)
        if not whole or len(waiting) == batch_size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def advance(
    model: SequenceModel, head: Head, codes: np.ndarray, stream: Stream
) -> tuple[Tensor, dict[str, Tensor], Stream]:
    """Read codes (n,), one at least, behind a stream: their hidden rows (1, n, D), batch, and the stream after them."""
    batch = _batch([codes], [stream.previous], _device(model))
    hidden, memory = model.backbone(head.inputs(batch), stream.memory)
    return hidden, batch, Stream(memory, int(codes[-1]) if head.behind else BEGIN)


class _Walk:
    """One stream through the records, block by block."""

    def __init__(self, model: SequenceModel, head: Head, course: Course, carried: Carried | None):
        self.model, self.head, self.course = model, head, course
        self.stream, self.run = (course.start, 0) if carried is None else (carried.stream, carried.run)

    def read(self, block: Block) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Hidden rows (1, n, D) and batch of each stretch of a block without a reset; none if it is empty."""
        reset = self.course.reset
        if block.start == 0 and reset.at != "never":
            self.stream, self.run = self.course.start, 0
        cuts, self.run = reset.inside(block.codes, block.start, self.run)
        for first, end in pairwise(sorted({0, *cuts, len(block.codes)})):
            if first in cuts:
                self.stream = self.course.start
            hidden, batch, self.stream = advance(self.model, self.head, block.codes[first:end], self.stream)
            yield hidden, batch

    def point(self, before: Point, block: Block, so_far: Any) -> Point:
        """Where the job stands after a block."""
        inside = 0 if block.last else block.start + len(block.codes)
        carried = Carried(so_far, self.stream, self.run)
        return Point(before.done + block.last, inside, before.tokens + len(block.codes), carried)


def _read_together(
    model: SequenceModel, head: Head, group: list[Block], start: Stream, more: int = 0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden rows (B, T, D) of whole records side by side, each from ``start``; T is ``more`` than the longest has."""
    longest = max(1, *(len(block.codes) for block in group)) + more
    batch = _batch([block.codes for block in group], [start.previous] * len(group), _device(model), longest)
    hidden, _ = model.backbone(head.inputs(batch), expand(start.memory, len(group)))
    return hidden, batch


def _past(point: Point, group: list[Block]) -> Point:
    """Where the job stands after whole records that were read together."""
    return Point(point.done + len(group), 0, point.tokens + sum(len(block.codes) for block in group))


@torch.inference_mode()
def sequence_steps(
    model: SequenceModel,
    blocks: Iterable[Block],
    batch_size: int,
    point: Point,
    course: Course | None = None,
    embed: Embedder | None = None,
) -> Steps:
    """Rows of predictions, or embeddings, for records that come in blocks of one size, one a record, in order.

    Records of one block are read side by side; a longer one is streamed alone, block by block, with its memory
    carried on, so that memory use does not grow with its length.
    """
    course = Course(learned_start(model)) if course is None else course
    head: Head = model.head if embed is None else embed
    task = model.task if embed is None else embed
    nothing = _nothing(head, model)

    def rows(group: list[Block], read: Any) -> list[Row]:
        output = head.result(read)
        _must_be_finite(output, (f"record {quoted(block.id)}" for block in group))
        columns = task.columns(output)
        return [{"id": block.id, **{c: v[i] for c, v in columns.items()}} for i, block in enumerate(group)]

    walk = _Walk(model, head, course, point.carried)
    so_far = point.carried.so_far if point.inside else nothing
    # behind a record of a backbone that is not causal padding would show: it would reach back into it
    for group in _groups(blocks, point, batch_size, not course.alone, model.backbone.config.causal):
        if len(group) > 1:
            hidden, batch = _read_together(model, head, group, course.start)
            point = _past(point, group)
            yield rows(group, head.fold(head.start(batch), hidden, batch)), point
            continue
        (block,) = group
        so_far = so_far if block.start else nothing
        for hidden, batch in walk.read(block):
            so_far = head.fold(so_far, hidden, batch)
        point = walk.point(point, block, so_far)
        yield rows(group, so_far) if block.last else [], point


def settled(model: SequenceModel, stream: Stream) -> Stream:
    """The stream after the base that a language model left unread: where one goes on that reads each base at once."""
    if stream.previous == BEGIN:
        return stream
    with torch.inference_mode():
        _, memory = model.backbone(torch.tensor([[stream.previous]], device=_device(model)), stream.memory)
    return Stream(memory)


@torch.inference_mode()
def track_steps(
    model: SequenceModel,
    blocks: Iterable[Block],
    batch_size: int,
    point: Point,
    course: Course,
    tracks: Sequence[str] = TRACKS,
) -> Steps:
    """Rows of `TrackFile` under a language model, one a block: for every base A, C, G or T

    ``loglik``: ln p of the base that stands there, from those before it, in nats;
    ``entropy``: of what was predicted there, in nats;
    ``surprise``: ‖∂ℓ/∂W‖ of the base at the memory that it met, the norm over layers, the mean over heads and blocks.
    """
    head = model.head
    walk = _Walk(model, head, course, point.carried)
    with recorded_surprise(model) if "surprise" in tracks else nullcontext() as seen:

        def values(hidden: Tensor, batch: dict[str, Tensor], surprise: Tensor | None) -> np.ndarray:
            """Tracks (B, K, T) of hidden rows (B, T, D); NaN where there is no base."""
            found: dict[str, Callable[[], Any]] = {
                "loglik": lambda: head.token_loglik(hidden, batch),
                "entropy": lambda: head.token_entropy(hidden),
                "surprise": lambda: surprise,
            }
            stacked = torch.stack([found[name]() for name in tracks], 1)
            return stacked.where(batch["tokens"][:, None] < N, torch.nan).cpu().numpy()

        def row(block: Block, found: np.ndarray) -> Row:
            if np.isinf(found).any() or np.isnan(found[:, block.codes < N]).any():
                raise NumericFault(_not_finite(f"record {quoted(block.id)}"))
            return {"chrom": block.id, "start": block.start, "tracks": list(tracks), "values": found}

        for group in _groups(blocks, point, batch_size, not course.alone, pad=True):
            if len(group) > 1:
                # a base is read one row behind its own, so the last row needs one more
                hidden, batch = _read_together(model, head, group, course.start, more=1)
                surprise = None if seen is None else torch.nn.functional.pad(_met(seen)[:, 1:], (0, 1))
                found = values(hidden, batch, surprise)
                point = _past(point, group)
                yield [row(b, found[i, :, : len(b.codes)]) for i, b in enumerate(group) if len(b.codes)], point
                continue
            (block,) = group
            parts = []
            for hidden, batch in walk.read(block):
                surprise = None
                if seen is not None:
                    first = _met(seen)[:, 1:]
                    model.backbone(batch["tokens"][:, -1:], walk.stream.memory)  # the base behind which the walk stands
                    surprise = torch.cat([first, _met(seen)], 1)
                parts.append(values(hidden, batch, surprise)[0])
            point = walk.point(point, block, None)
            yield [row(block, np.concatenate(parts, 1))] if parts else [], point


def _met(seen: list[list[Tensor]]) -> Tensor:
    """Surprise (B, T) of what was read since the last call: the mean over heads and blocks."""
    surprise = torch.stack([torch.cat(calls, -1).mean(1) for calls in seen]).mean(0)
    for calls in seen:
        calls.clear()
    return surprise


def _must_be_finite(output: Any, names: Iterable[str]) -> None:
    """Refuse what a model says, tensors (B, ...), if a number in it is not finite; each row has its name."""
    for tensor in state_tensors(output).values():
        finite = torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
        if not finite.all():
            raise NumericFault(_not_finite(list(names)[int(finite.int().argmin())]))


def _not_finite(name: str) -> str:
    return (
        f"The model's output is not finite for {name}. Is this input like those it was trained on? "
        "Take it out, or train with a lower training.learning_rate."
    )


@torch.inference_mode()
def token_loglik(model: SequenceModel, codes: np.ndarray, block: int = BLOCK) -> np.ndarray:
    """ln p of every base of one record (T,) under a language model that reads it in blocks; 0 where it is N."""
    found, stream = [], learned_start(model)
    for start in range(0, len(codes), block):
        hidden, batch, stream = advance(model, model.head, codes[start : start + block], stream)
        found.append(model.head.token_loglik(hidden, batch)[0].cpu().numpy())
    return np.concatenate(found)


# --- series


@torch.inference_mode()
def window_steps(
    model: SequenceModel,
    windows: SeriesWindows,
    describe: Callable[[int, dict[str, np.ndarray]], list[Row]],
    batch_size: int,
    point: Point,
) -> Steps:
    """Rows of forecasts for the windows in order; ``describe`` makes the rows of one from its columns (H, C)."""
    device = next(model.parameters()).device
    while point.done < len(windows):
        numbers = range(point.done, min(point.done + batch_size, len(windows)))
        batch = to_tensors(windows.collate([windows.item(i, None) for i in numbers]), device)
        output = model(batch)
        _must_be_finite(output, (f"window {n + 1}" for n in numbers))
        columns = {name: v.cpu().numpy() for name, v in model.task.columns(output).items()}
        ready = [row for i, n in enumerate(numbers) for row in describe(n, {c: v[i] for c, v in columns.items()})]
        point = Point(numbers[-1] + 1, 0, point.tokens + batch["past"][..., 0].numel())
        yield ready, point


class SeriesState(NamedTuple):
    """All that the stream of one series hands on."""

    rows: int  # read
    memory: MemoryState  # of the patches that are closed
    running: Tensor  # (1, 3, C) moments of the rows in them
    values: Tensor  # (1, P, C) float64 of the open patch, in the data's units; 0 where nothing was observed
    observed: Tensor  # (1, P, C)


class Forecaster:
    """Reads the rows of one series as they come, and forecasts at any row what follows it.

    The patch that holds the last row is open: it is kept, read anew for each forecast, and written to the memory
    when the row behind it comes. What is forecast does not depend on how rows were cut into updates.

    Args:
        model: of a forecasting task that reads streams.
        state: where an earlier `Forecaster` stopped; None for a series that begins.

    Raises:
        ModelError: if the model reads windows.
    """

    state: SeriesState

    def __init__(self, model: SequenceModel, state: SeriesState | None = None):
        if getattr(model.task, "reads", None) != "stream":
            raise ModelError(
                "This model has no state to carry from row to row: it reads a window anew for each forecast. "
                "Train one that reads streams: titans-seq forecast train ... --set task.reads=stream."
            )
        self.model = model.eval()
        self.state = initial_series(model) if state is None else state

    def _read(self, values: Tensor, observed: Tensor) -> tuple[Tensor, Scaled, MemoryState, Tensor]:
        """Read whole patches (1, N P, C) after the closed ones: hidden rows, scales, and the two states after them."""
        scaled, running = self.model.head.scaled(values, observed, self.state.running)
        hidden, memory = self.model.backbone(scaled.features, self.state.memory)
        return hidden, scaled, memory, running

    def _filled(self) -> int:
        """Rows of the open patch, 1 to P; 0 before any row."""
        return (self.state.rows - 1) % self.model.task.patch + 1 if self.state.rows else 0

    @torch.inference_mode()
    def update(self, rows: np.ndarray) -> None:
        """Read rows (T, C) in the data's units, NaN where nothing was observed."""
        state, patch = self.state, self.model.task.patch
        if rows.ndim != 2 or rows.shape[1] != state.values.shape[2]:
            raise ValueError(f"rows must have shape (T, C) with C = {state.values.shape[2]}, got {rows.shape}.")
        if np.isinf(rows).any():
            raise InputError("A row holds an infinite value. Mend it, or give NaN where nothing was observed.")
        new = torch.from_numpy(np.array(rows, np.float64)).to(state.values.device)[None]
        values = torch.cat([state.values[:, : self._filled()], new.nan_to_num()], 1)
        observed = torch.cat([state.observed[:, : self._filled()], new.isfinite()], 1)
        closed = max(0, values.shape[1] - 1) // patch * patch
        for start in range(0, closed, PATCHES * patch):
            part = slice(start, min(closed, start + PATCHES * patch))
            _, _, memory, running = self._read(values[:, part], observed[:, part])
            self.state = self.state._replace(memory=memory, running=running)
        rest = (0, 0, 0, patch - (values.shape[1] - closed))
        self.state = self.state._replace(
            rows=state.rows + len(rows),
            values=torch.nn.functional.pad(values[:, closed:], rest),
            observed=torch.nn.functional.pad(observed[:, closed:], rest),
        )

    @torch.inference_mode()
    def output(self) -> Tensor:
        """Forecast (1, H, C, Q) of the rows after the last, in training standard deviations."""
        if not self.state.rows:
            raise ValueError("There is no row yet to forecast from: call update first.")
        hidden, scaled, _, _ = self._read(self.state.values, self.state.observed)
        return self.model.head.result(Opened(hidden, scaled.location, scaled.scale, self._filled()))

    def forecast(self) -> dict[str, np.ndarray]:
        """Columns ``mean``, ``q0.1`` ... of the next H rows, each (H, C) in the data's units."""
        return {name: v[0].cpu().numpy() for name, v in self.model.task.columns(self.output()).items()}


@torch.inference_mode()
def initial_series(model: SequenceModel) -> SeriesState:
    """State of a series of which nothing was read, under a model that reads streams."""
    task = model.task
    device = next(model.parameters()).device
    return SeriesState(
        0,
        model.backbone.initial_state(1 if task.mixing else len(task.channels)),
        model.head.initial_running(1),
        torch.zeros(1, task.patch, len(task.channels), dtype=torch.float64, device=device),
        torch.zeros(1, task.patch, len(task.channels), dtype=torch.bool, device=device),
    )


@dataclass
class Streams:
    """The streams of a job over several series; it changes as the job runs, and `Point.carried` is taken from it.

    ``states`` and ``starts`` are of each series: where its stream stands, and how many of its rows were read before
    the job. ``scores`` holds what was measured of each window, if anything. With ``keep`` the states of series that
    are finished stay; else ``begin``, the state of any series that begins, takes their place.
    """

    begin: SeriesState
    states: list[SeriesState]
    starts: list[int]
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    keep: bool = False

    def close(self, number: int) -> None:
        """Series ``number`` is finished."""
        if not self.keep:
            self.states[number] = self.begin

    def carried(self, number: int) -> tuple[Any, ...]:
        """What must be saved while series ``number`` is open; also the form in which it is read again."""
        states = tuple(self.states) if self.keep else (self.states[number],)
        return states, tuple(torch.from_numpy(rows) for rows in self.scores.values())

    def restore(self, number: int, carried: tuple[Any, ...]) -> None:
        """Go back to what was saved."""
        states, scores = carried
        self.states[:] = states if self.keep else [*self.states[:number], *states, *self.states[number + 1 :]]
        for rows, saved in zip(self.scores.values(), scores, strict=True):
            rows[:] = saved.numpy()


def series_steps(
    model: SequenceModel,
    windows: SeriesWindows,
    describe: Callable[[int, dict[str, np.ndarray]], list[Row]],
    streams: Streams,
    point: Point,
) -> Steps:
    """Rows of forecasts at the origins of the windows in order, each series read once from left to right."""
    longest = PATCHES * model.task.patch

    def carried(done: int) -> tuple[int, tuple[Any, ...]]:
        """The series that is open when so many windows are done, and what is saved of it."""
        number, _ = windows.place(min(done, len(windows) - 1))
        return number, streams.carried(number)

    if point.carried is not None:
        streams.restore(carried(point.done)[0], point.carried)
    while point.done < len(windows):
        number, origin = windows.place(point.done)
        reader = Forecaster(model, streams.states[number])
        at = max(point.inside, streams.starts[number])
        end = min(origin, at + longest)
        reader.update(windows.series[number].values[at:end])
        streams.states[number] = reader.state
        if end < origin:
            point = Point(point.done, end, point.tokens + end - at, carried(point.done)[1])
            yield [], point
            continue
        output = reader.output()
        _must_be_finite(output, [f"window {point.done + 1}"])
        if streams.scores:
            batch = to_tensors(windows.collate([windows.item(point.done, None)]), output.device)
            for name, values in model.task.measures(output, batch).items():
                streams.scores[name][point.done] = values[0]
        columns = {name: v[0].cpu().numpy() for name, v in model.task.columns(output).items()}
        ready = describe(point.done, columns)
        following, saved = carried(point.done + 1)
        inside = origin if following == number else 0
        if following != number:
            streams.close(number)
        point = Point(point.done + 1, inside, point.tokens + end - at + 1, saved)
        yield ready, point
