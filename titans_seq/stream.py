"""The one engine that carries memory over long input: blocks in, rows out in order, and points to resume from.

A job is a generator of steps. Each step gives the rows that became ready and the `Point` after them; from a
point the same generator can begin again. The engine writes rows and points, so a job that is killed at any
moment and resumed gives the bytes of one that was not.
"""

import json
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from titans_seq.backbone import BackboneConfig
from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.fasta import Block
from titans_seq.data.record import quoted
from titans_seq.data.windows import BEGIN, SeriesWindows, padded
from titans_seq.data.write import Row, RowFile
from titans_seq.errors import InputError, ModelError, NumericFault
from titans_seq.files import clear_drafts, whole_file
from titans_seq.memory import MemoryState, fill_state, state_tensors
from titans_seq.progress import Progress
from titans_seq.signals import watching
from titans_seq.tasks.forecasting import Opened, Scaled

SAVE_EVERY = 262_144  # tokens between points: some seconds' work
BLOCK = 4096  # tokens of a long record that are read at once, or the whole segments in so many
PATCHES = 512  # of a series that are read at once: running sums take the square of it


class Point(NamedTuple):
    """Where a job stands: all rows of what came before are written."""

    done: int = 0  # records or windows finished
    inside: int = 0  # tokens read of the record that is open
    tokens: int = 0  # tokens read in all
    carried: Any = None  # of the open record: what the head keeps, the memory state, the token before


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
    rows = RowFile(out, size)
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
        count = rows.finish()
        file.unlink()
        return count
    finally:
        if not file.exists():  # finished, or failed before there was a point to resume from
            rows.part.unlink(missing_ok=True)
        rows.close()


# --- sequences


def _batch(codes: list[np.ndarray], previous: list[int], device: torch.device) -> dict[str, Tensor]:
    return to_tensors({"tokens": padded(codes), "previous": np.array(previous, np.int64)}, device)


def block_size(config: BackboneConfig) -> int:
    """Bases of a long record that are read at once: whole segments, where a backbone has them."""
    segment = getattr(config.block, "segment", 1)
    return segment * max(1, BLOCK // segment)


def carried_template(model: SequenceModel) -> Any:
    """What `sequence_steps` carries inside a record."""
    device = next(model.parameters()).device
    return (model.head.start(_batch([np.zeros(1, np.uint8)], [BEGIN], device)), model.backbone.initial_state(1), BEGIN)


@torch.inference_mode()
def sequence_steps(model: SequenceModel, blocks: Iterable[Block], batch_size: int, point: Point) -> Steps:
    """Rows of predictions for records that come in blocks of one size, one a record, in order.

    Records of one block are read side by side; a longer one is streamed alone, block by block, with its memory
    carried on, so that memory use does not grow with its length.
    """
    device = next(model.parameters()).device
    padding_shows = not model.backbone.config.causal  # what stands behind a record would reach back into it
    waiting: list[Block] = []

    def rows(ids: list[str], read: Any) -> list[Row]:
        output = model.head.result(read)
        _must_be_finite(output, (f"record {quoted(name)}" for name in ids))
        columns = model.task.columns(output)
        return [{"id": name, **{c: v[i] for c, v in columns.items()}} for i, name in enumerate(ids)]

    def flush(point: Point) -> tuple[list[Row], Point]:
        batch = _batch([b.codes for b in waiting], [BEGIN] * len(waiting), device)
        read, _ = model.read(batch, model.head.start(batch), None)
        done = rows([b.id for b in waiting], read)
        point = Point(point.done + len(waiting), 0, point.tokens + sum(len(b.codes) for b in waiting))
        waiting.clear()
        return done, point

    for block in blocks:
        if block.record < point.done or (block.record == point.done and block.start < point.inside):
            continue
        if block.start == 0 and block.last:
            if waiting and padding_shows and len(block.codes) != len(waiting[0].codes):
                ready, point = flush(point)
                yield ready, point
            waiting.append(block)
            if len(waiting) == batch_size:
                ready, point = flush(point)
                yield ready, point
            continue
        if waiting:
            ready, point = flush(point)
            yield ready, point
        so_far, state, previous = point.carried if point.inside else (None, None, BEGIN)
        batch = _batch([block.codes], [previous], device)
        so_far, state = model.read(batch, model.head.start(batch) if so_far is None else so_far, state)
        tokens = point.tokens + len(block.codes)
        if block.last:
            point = Point(point.done + 1, 0, tokens)
            yield rows([block.id], so_far), point
        else:
            carried = (so_far, state, int(block.codes[-1]))
            point = Point(point.done, block.start + len(block.codes), tokens, carried)
            yield [], point
    if waiting:
        yield flush(point)


def _must_be_finite(output: Any, names: Iterable[str]) -> None:
    """Refuse what a model says, tensors (B, ...), if a number in it is not finite; each row has its name."""
    for tensor in state_tensors(output).values():
        finite = torch.isfinite(tensor).reshape(len(tensor), -1).all(1)
        if not finite.all():
            raise NumericFault(
                f"The model's output is not finite for {list(names)[int(finite.int().argmin())]}. Is this input like "
                "those it was trained on? Take it out, or train with a lower training.learning_rate."
            )


@torch.inference_mode()
def token_loglik(model: SequenceModel, codes: np.ndarray, block: int = BLOCK) -> np.ndarray:
    """ln p of every base of one record (T,) under a language model that reads it in blocks; 0 where it is N."""
    device = next(model.parameters()).device
    found, state, previous = [], None, BEGIN
    for start in range(0, len(codes), block):
        piece = codes[start : start + block]
        batch = _batch([piece], [previous], device)
        hidden, state = model.backbone(model.head.inputs(batch), state)
        found.append(model.head.token_loglik(hidden, batch)[0].cpu().numpy())
        previous = int(piece[-1])
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
