"""What a model makes of a change in a genome: the window with REF and the window with ALT, read and compared."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch

from titans_seq.checkpoint import SequenceModel, to_tensors
from titans_seq.data.reference import Reference
from titans_seq.data.variants import Site, alleles_in_window
from titans_seq.data.windows import BEGIN, padded, reverse_complement
from titans_seq.data.write import Row
from titans_seq.errors import UsageError
from titans_seq.stream import Point, Steps, must_be_finite
from titans_seq.stream.walk import TOGETHER, Head, block_size
from titans_seq.tasks.language import LanguageHead
from titans_seq.tasks.pooling import Embedder

AT_ONCE = 1 << 18  # bases of windows in which what stands twice is read once


class Score(Protocol):
    """What is read of a window, and how two of them are compared."""

    columns: dict[str, str]  # name of each number and what it means

    @abstractmethod
    def read(self, codes: list[np.ndarray]) -> np.ndarray:
        """Numbers (B, K) of whole sequences of any lengths, float64."""

    @abstractmethod
    def compare(self, ref: np.ndarray, alt: np.ndarray) -> np.ndarray:
        """Scores (M,) of what was read with ALT, (K,), against what was read with REF."""


@torch.inference_mode()
def _folded(model: SequenceModel, head: Head, codes: list[np.ndarray]) -> Any:
    """What ``head`` keeps of whole sequences, side by side and each from the learned memory, in blocks."""
    device = next(model.parameters()).device
    tokens, config = padded(codes), model.backbone.config
    size = tokens.shape[1] if config.whole else block_size(config)
    previous, state, so_far = np.full(len(codes), BEGIN, np.int64), None, None
    for start in range(0, tokens.shape[1], size):
        batch = to_tensors({"tokens": tokens[:, start : start + size], "previous": previous}, device)
        hidden, state = model.hidden(batch, state, head)
        so_far = head.fold(head.start(batch) if so_far is None else so_far, hidden, batch)
        previous = head.unread(batch).cpu().numpy()
    return head.result(so_far)


class LikelihoodRatio(Score):
    """Of a language model: how much likelier the window is with ALT."""

    def __init__(self, model: SequenceModel):
        if not isinstance(model.head, LanguageHead):
            raise UsageError(
                f"--score llr asks a language model, and this is a model of task {model.task.kind}. "
                "Give --score prediction or embedding."
            )
        self.model = model
        self.columns = {
            "llr": "Log-likelihood ratio in nats: sum of ln p over the window with ALT, less that with REF; "
            "below 0 the model finds ALT less likely"
        }

    def read(self, codes: list[np.ndarray]) -> np.ndarray:
        """The sum of ln p of the bases, (B, 1)."""
        found: np.ndarray = _folded(self.model, self.model.head, codes).nats.cpu().numpy()[:, None]
        return found

    def compare(self, ref: np.ndarray, alt: np.ndarray) -> np.ndarray:
        """The difference."""
        return alt - ref


class EmbeddingDistance(Score):
    """Of any model: how far the mean of the hidden rows of the window moves."""

    def __init__(self, model: SequenceModel):
        self.model, self.embedder = model, Embedder(model.backbone.config.width)
        self.columns = {
            "cosine_distance": "1 - cosine of the mean hidden rows of the window with ALT and with REF",
            "l2_distance": "Euclidean distance of the mean hidden rows of the window with ALT and with REF",
        }

    def read(self, codes: list[np.ndarray]) -> np.ndarray:
        """The mean of the hidden rows, (B, D)."""
        found: np.ndarray = _folded(self.model, self.embedder, codes).double().cpu().numpy()
        return found

    def compare(self, ref: np.ndarray, alt: np.ndarray) -> np.ndarray:
        """Both distances. That of cosines is half the squared distance of the rows at length one: exact near 0."""
        lengths = [max(float(np.linalg.norm(row)), np.finfo(np.float64).tiny) for row in (ref, alt)]
        apart = ref / lengths[0] - alt / lengths[1]
        return np.array([apart @ apart / 2, np.linalg.norm(alt - ref)])


class PredictionDifference(Score):
    """Of a fine-tuned model: how much each number that it predicts changes."""

    def __init__(self, model: SequenceModel):
        self.model, language = model, isinstance(model.head, LanguageHead)
        numbers = not language and hasattr(model.task, "columns")  # of a sequence, not along it
        self.names = list(self._numbers([np.zeros(1, np.uint8)])) if numbers else []
        if not self.names:
            raise UsageError(
                f"--score prediction asks a model that predicts numbers of a sequence, and this is one of task "
                f"{model.task.kind}. Give --score {'llr' if language else 'embedding'}."
            )
        self.columns = {f"delta_{name}": f"{name} of the window with ALT, less that with REF" for name in self.names}

    def _numbers(self, codes: list[np.ndarray]) -> dict[str, list[float]]:
        columns = self.model.task.columns(_folded(self.model, self.model.head, codes))
        return {name: found for name, found in columns.items() if isinstance(found[0], float)}

    def read(self, codes: list[np.ndarray]) -> np.ndarray:
        """The numbers, (B, C)."""
        found = self._numbers(codes)
        return np.array([found[name] for name in self.names]).T

    def compare(self, ref: np.ndarray, alt: np.ndarray) -> np.ndarray:
        """The differences."""
        return alt - ref


SCORES: dict[str, Callable[[SequenceModel], Score]] = {
    "llr": LikelihoodRatio,
    "embedding": EmbeddingDistance,
    "prediction": PredictionDifference,
}


def default_score(model: SequenceModel) -> str:
    """The score that fits a model: the likelihood of a language model, else what it predicts."""
    if isinstance(model.head, LanguageHead):
        return "llr"
    return "prediction" if hasattr(model.task, "columns") else "embedding"


def _batches(codes: Sequence[np.ndarray], batch_size: int, pad: bool) -> Iterator[list[int]]:
    """Places of the sequences that are read side by side: of one length, or with ``pad`` of like lengths; no more than
    `TOGETHER` bases, but of one alone.
    """
    most = 2 if pad else 1
    held: list[int] = []
    for place in sorted(range(len(codes)), key=lambda place: len(codes[place])):
        full = len(held) == batch_size or (len(held) + 1) * len(codes[place]) > TOGETHER
        if held and (full or len(codes[place]) > most * len(codes[held[0]])):
            yield held
            held = []
        held.append(place)
    if held:
        yield held


class Scorer:
    """Scores of sites on a genome.

    Args:
        model: what reads.
        score: what of, one of `SCORES`.
        genome: where the sites are.
        window: bases around a site that are read with it, see `titans_seq.data.variants.window_of`.
        both_strands: read each window on the other strand too, and take the mean of what is read.
        batch_size: windows read side by side.
    """

    def __init__(
        self, model: SequenceModel, score: str, genome: Reference, window: int, both_strands: bool, batch_size: int
    ):
        self.model, self.score = model, SCORES[score](model)
        self.genome, self.window, self.both_strands, self.batch_size = genome, window, both_strands, batch_size
        self.pad = model.backbone.config.padded

    @property
    def columns(self) -> dict[str, str]:
        """Names of the scores and what they mean."""
        return self.score.columns

    def _read(self, codes: list[np.ndarray], names: list[str]) -> np.ndarray:
        """Numbers (B, K) of windows, each of which has the name of a site that it is of."""
        found: list[Any] = [None] * len(codes)
        for places in _batches(codes, self.batch_size, self.pad):
            given = [codes[place] for place in places]
            numbers = self.score.read(given)
            if self.both_strands:
                numbers = (numbers + self.score.read([reverse_complement(window) for window in given])) / 2
            must_be_finite(torch.from_numpy(numbers), (names[place] for place in places))
            for place, row in zip(places, numbers, strict=True):
                found[place] = row
        return np.array(found)

    def of(self, sites: Sequence[Site]) -> list[np.ndarray]:
        """Scores (A, M) of the ALT alleles of each site, NaN where there is none.

        Windows that are alike are read once.
        """
        windows: list[np.ndarray] = []
        names: list[str] = []
        places: dict[bytes, int] = {}

        def place(site: Site, codes: np.ndarray | None) -> int | None:
            if codes is None:
                return None
            at = places.setdefault(codes.tobytes(), len(windows))
            if at == len(windows):
                windows.append(codes)
                names.append(f"the variant at {site.chrom}:{site.start + 1:,}")
            return at

        wanted = [
            [place(site, codes) for codes in alleles_in_window(site, self.window, self.genome)] if site.scored else []
            for site in sites
        ]
        numbers = self._read(windows, names)
        found = [np.full((len(site.alts), len(self.columns)), np.nan) for site in sites]
        for scores, (ref, *alts) in ((s, w) for s, w in zip(found, wanted, strict=True) if w):
            for row, alt in enumerate(alts):
                if alt is not None:
                    scores[row] = self.score.compare(numbers[ref], numbers[alt])
        return found

    def work(self, sequences: int) -> int:
        """Bases that so many windows have, if none is shared."""
        return sequences * self.window

    def steps(self, sites: Iterable[Site], point: Point, rows: Callable[[Site, np.ndarray], list[Row]]) -> Steps:
        """Rows of sites in their order, from a point on: ``rows`` makes them of a site and its scores (A, M)."""
        for group in self._groups(islice(sites, point.done, None)):
            scores = self.of(group)
            tokens = self.work(sum(site.sequences for site in group))
            point = Point(point.done + len(group), 0, point.tokens + tokens)
            yield [row for site, found in zip(group, scores, strict=True) for row in rows(site, found)], point

    def units(self, sites: Iterable[Site]) -> Iterator[tuple[int, int]]:
        """Sites that are read together: how many are done after them, and how many windows they have."""
        done = 0
        for group in self._groups(sites):
            done += len(group)
            yield done, sum(site.sequences for site in group)

    def _groups(self, sites: Iterable[Site]) -> Iterator[list[Site]]:
        """Sites that are read together: so many that batches are full."""
        held: list[Site] = []
        count = 0
        for site in sites:
            held.append(site)
            count += max(1, site.sequences)
            if count >= self.batch_size and self.work(count) >= AT_ONCE:
                yield held
                held, count = [], 0
        if held:
            yield held
