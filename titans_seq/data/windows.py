"""From records to training items: genome windows, labelled sequences, series windows. numpy only."""

from typing import Protocol

import numpy as np
from numpy.random import Generator

from titans_seq.data.record import LOWER, Record, Series

Item = dict[str, np.ndarray]
N, BEGIN, PAD, MASK = 4, 5, 6, 7  # of the token vocabulary; codes 0-3 are A C G T


class Items(Protocol):
    """What training reads: a number of items, each drawn with its own random numbers, and batches of them."""

    def __len__(self) -> int: ...

    def item(self, index: int, rng: Generator | None) -> Item:
        """One item; without random numbers as it is, for validation."""
        ...

    def collate(self, items: list[Item]) -> Item:
        """A batch of items."""
        ...


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """Codes of the other strand, read in its own direction; N stays N."""
    return np.where(codes < N, 3 - codes, codes)[::-1].astype(codes.dtype)


def padded(sequences: list[np.ndarray], length: int | None = None) -> np.ndarray:
    """Codes of several lengths to (B, T) int64, padded on the right."""
    tokens = np.full((len(sequences), length or max(1, *(len(s) for s in sequences))), PAD, np.int64)
    for row, sequence in zip(tokens, sequences, strict=True):
        row[: len(sequence)] = sequence
    return tokens


class GenomeWindows:
    """Windows of ``length`` bases that tile the records; in training each is moved at random by up to half its length.

    An item holds ``tokens`` (T,) and the token ``previous`` to them, BEGIN at the start of a record. Where bases in
    lower case (codes with `LOWER`) have another ``weight`` than 1 in the loss, it also holds ``weight`` (T,).
    """

    def __init__(self, records: list[Record], length: int, reverse: bool, weight: float = 1.0):
        self.records, self.length, self.reverse, self.weight = records, length, reverse, weight
        counts = [max(1, -(-len(r) // length)) for r in records]
        self.ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def item(self, index: int, rng: Generator | None) -> Item:
        """The tile ``index``, or with random numbers a window near it, on either strand if asked."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        codes = self.records[number].codes
        start = (index - int(self.ends[number - 1] if number else 0)) * self.length
        flip = False
        if rng is not None:
            latest = max(0, len(codes) - self.length)
            start += int(rng.integers(-self.length // 2, self.length // 2 + 1))
            start = min(latest, max(0, start))
            flip = self.reverse and bool(rng.integers(2))
        window = codes[start : start + self.length]
        weight = np.where(window >= LOWER, np.float32(self.weight), np.float32(1))
        neighbour = start + len(window) if flip else start - 1
        previous = codes[neighbour : neighbour + 1] if 0 <= neighbour < len(codes) else np.array([BEGIN])
        window, previous = window & (LOWER - 1), previous & (LOWER - 1)
        if flip:
            window, previous, weight = reverse_complement(window), reverse_complement(previous), weight[::-1]
        return {"tokens": window, "previous": previous[0], **({} if self.weight == 1 else {"weight": weight})}

    def collate(self, items: list[Item]) -> Item:
        """Batch of ``tokens`` (B, T) and ``previous`` (B,), int64, and ``weight`` (B, T), float32."""
        batch = {
            "tokens": padded([item["tokens"] for item in items]),
            "previous": np.array([item["previous"] for item in items], np.int64),
        }
        if self.weight != 1:
            batch["weight"] = np.zeros(batch["tokens"].shape, np.float32)  # padding has none
            for row, item in zip(batch["weight"], items, strict=True):
                row[: len(item["weight"])] = item["weight"]
        return batch


class MaskedWindows:
    """Windows of which bases are masked; an item holds ``tokens`` (T,) and the bases ``masked`` (T,), N where none is.

    In training each base is asked for with probability ``rate``: of these 80 % read as MASK, 10 % as a base at random
    and 10 % as they are (BERT, arXiv 1810.04805, section 3.1). Otherwise every n-th reads as MASK, n = 1 / ``rate``,
    from a place that moves from item to item. Words are asked for and masked as a whole.

    Args:
        windows: what is read.
        rate: share of the bases that are asked for.
        every: take each window n times instead, so that each of its bases is asked for once.
        word: bases a word, on a grid that begins with the window.
    """

    def __init__(self, windows: GenomeWindows, rate: float, every: bool = False, word: int = 1):
        self.windows, self.rate, self.word = windows, rate, word
        self.step = max(1, round(1 / rate))
        self.times = self.step if every else 1

    def __len__(self) -> int:
        return len(self.windows) * self.times

    def item(self, index: int, rng: Generator | None) -> Item:
        """A window with masks, drawn where random numbers are given."""
        window = self.windows.item(index // self.times, rng)
        codes = window["tokens"]
        base, word = codes < N, np.arange(len(codes)) // self.word
        if rng is None:
            asked = base & (word % self.step == index % self.step)
            read = np.where(asked, MASK, codes)
        else:
            words = -(-len(codes) // self.word)
            asked = base & (rng.random(words) < self.rate)[word]
            how, drawn = rng.random(words)[word], rng.integers(0, N, len(codes))
            read = np.where(asked & (how < 0.8), MASK, np.where(asked & (how < 0.9), drawn, codes))
        return {**window, "tokens": read, "masked": np.where(asked, codes, N)}

    def collate(self, items: list[Item]) -> Item:
        """Batch of windows, and ``masked`` (B, T), int64, padded on the right."""
        return {**self.windows.collate(items), "masked": padded([item["masked"] for item in items])}


class LabelledSequences:
    """Whole sequences with their targets; an item holds ``tokens`` (T,) and ``label``, the target.

    In training a window that knows what lies around it is moved at random, by up to the bases known on each side.

    Args:
        records: the sequences.
        targets: what a task makes of their labels.
        reverse: whether training may read the other strand.
        along: whether a target runs along its sequence, and turns round with it.
    """

    def __init__(self, records: list[Record], targets: list[np.ndarray], reverse: bool, along: bool = False):
        self.records, self.targets, self.reverse, self.along = records, targets, reverse, along

    def __len__(self) -> int:
        return len(self.records)

    def item(self, index: int, rng: Generator | None) -> Item:
        """The sequence ``index``, with random numbers moved, and on either strand if asked."""
        codes, around, target = self.records[index].codes, self.records[index].around, self.targets[index]
        if rng is not None and around is not None:
            start = int(rng.integers(len(around) - len(codes) + 1))
            codes = around[start : start + len(codes)]
        if rng is not None and self.reverse and rng.integers(2):
            codes = reverse_complement(codes)
            target = target[::-1] if self.along else target
        return {"tokens": codes, "label": target}

    def collate(self, items: list[Item]) -> Item:
        """Batch of ``tokens`` (B, T), padded on the right, int64, and ``label`` (B, ...), padded too."""
        return {"tokens": padded([item["tokens"] for item in items]), "label": stacked([i["label"] for i in items])}


def stacked(targets: list[np.ndarray]) -> np.ndarray:
    """Targets to (B, ...); those that run along shorter sequences are padded with what no loss counts, -1 or NaN."""
    longest = max(len(target) for target in targets) if targets[0].ndim else 0
    nothing = np.nan if targets[0].dtype.kind == "f" else -1
    if all(not target.ndim or len(target) == longest for target in targets):
        return np.stack(targets)
    found = np.full((len(targets), longest, *targets[0].shape[1:]), nothing, targets[0].dtype)
    for row, target in zip(found, targets, strict=True):
        row[: len(target)] = target
    return found


def stream_rows(series: Series, start: int, end: int) -> np.ndarray:
    """Rows (T, C + K + P) of a series as a stream reads them: channels, what is known beforehand, and the rest."""
    part = slice(start, min(end, len(series)))
    return np.concatenate([series.target[part], series.known_future[part], series.past_only[part]], 1)


class SeriesWindows:
    """Look-back and future around every origin between two rows of each series.

    An item holds ``past`` (L, C), ``future`` (H, C), float64 in the data's units (a high level leaves no digits of
    float32 for steps) with 0 where a value is missing, and the marks ``observed`` (L, C) and ``future_observed``
    (H, C): a value that filled a gap is read, and no target. An origin is the row of the first forecast. Series with
    covariates give them too, NaN where one is missing: ``known`` (L + H, K), ``past_only`` (L, P) and ``static``
    (S,). With ``open`` an item of training also holds how many of its last patch's rows are to be seen, at random.

    Args:
        series: all of the same columns.
        spans: for each the first origin and the row behind the last future row.
        lookback: L rows.
        horizon: H rows.
        step: rows from one origin to the next.
        open: rows of a patch, for a model that reads streams; else 0.
        balanced: an item of training is a window drawn from a series that is drawn first, whatever its number.
    """

    def __init__(
        self,
        series: list[Series],
        spans: list[tuple[int, int]],
        lookback: int,
        horizon: int,
        step: int = 1,
        open: int = 0,
        balanced: bool = False,
    ):
        self.series, self.lookback, self.horizon, self.open = series, lookback, horizon, open
        self.seen = [np.isfinite(s.target) for s in series]
        self.measured = [s.observed for s in series]
        self.origins = [np.arange(max(a, lookback), b - horizon + 1, step) for a, b in spans]
        self.ends = np.cumsum([len(o) for o in self.origins])
        self.drawn = [number for number, o in enumerate(self.origins) if len(o)] if balanced else []

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def place(self, index: int) -> tuple[int, int]:
        """Number of the series, and the origin's row."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        return number, int(self.origins[number][index - (int(self.ends[number - 1]) if number else 0)])

    def item(self, index: int, rng: Generator | None) -> Item:
        """The window ``index``, or with random numbers and ``balanced`` one of any series."""
        number, t = self.place(index)
        if rng is not None and self.drawn:
            number = self.drawn[int(rng.integers(len(self.drawn)))]
            t = int(rng.choice(self.origins[number]))
        past, future = slice(t - self.lookback, t), slice(t, t + self.horizon)
        seen, s = self.seen[number], self.series[number]
        beside = {
            "known": s.known_future[past.start : future.stop],
            "past_only": s.past_only[past],
            "static": s.static,
        }
        cut = {"open": np.array(rng.integers(1, self.open + 1))} if rng is not None and self.open else {}
        return {
            **cut,
            **{name: part for name, part in beside.items() if part.shape[-1]},
            "past": np.nan_to_num(s.target[past]),
            "observed": seen[past],
            "future": np.nan_to_num(s.target[future]),
            "future_observed": self.measured[number][future],
        }

    def collate(self, items: list[Item]) -> Item:
        """Batch of the same, (B, L, C), (B, H, C) and (B,)."""
        return {name: np.stack([item[name] for item in items]) for name in items[0]}
