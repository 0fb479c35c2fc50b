"""Where a recipe's data come from: a source reads its files, fits the task to them and gives training items."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from titans_seq.data.aliases import Aliases
from titans_seq.data.carve import carved
from titans_seq.data.held_out import HeldOut, read_region
from titans_seq.data.record import LOWER, STRICT, Judge, Record, Series, quoted
from titans_seq.data.regions import Regions
from titans_seq.data.series import SeriesReading, SeriesTable, read_series, spaced, timed
from titans_seq.data.windows import GenomeWindows, Items, LabelledSequences, MaskedWindows, SeriesWindows
from titans_seq.errors import ConfigError, InputError, warn
from titans_seq.miras.choice import Choice
from titans_seq.resources import data_file, is_drawn

SMALL = 1e-3  # of a table's deviation, what a series moves by at least; `STD_FLOOR` is a hundredth of it


class Parts(NamedTuple):
    """What training needs: the task with all that the data decide, and two sets of items."""

    task: Any
    train: Items
    validation: Items


class FastaSource(Choice):
    """Records to model base by base; for validation regions are held out, or else the last part of each record."""

    kind: Literal["fasta"] = "fasta"
    places: ClassVar[tuple[str, ...]] = ("paths",)  # fields that name files
    streamed: ClassVar[bool] = True  # a causal model is measured on it record by record, however long they are
    reading: ClassVar[tuple[str, ...]] = ("length",)  # what another file like this one is likely to need too
    paths: tuple[str, ...] = Field(min_length=1)
    length: int = Field(default=1024, ge=2, description="Bases a training window.")
    validation: float = Field(
        default=0.05, gt=0, lt=1, description="Share of each record, at its end, where no regions are given."
    )
    validation_regions: tuple[str, ...] = Field(
        default=(), description="Names of records, or NAME:START-END (0-based, half-open as in BED), to validate with."
    )
    test_regions: tuple[str, ...] = Field(
        default=(), description="Likewise, neither trained on nor validated with: kept for a test."
    )
    reverse_complement: bool = Field(default=True, description="Train on both strands.")
    softmask: Literal["keep", "ignore", "weight"] = Field(
        default="keep",
        description="Bases in lower case (repeats): as all others; no targets; or of weight 0.1 in training and no "
        "targets in validation.",
    )

    @field_validator("validation_regions", "test_regions")
    @classmethod
    def _regions(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            read_region(text)
        return given

    def files(self) -> list[Path]:
        """The files that are read."""
        return [data_file(path) for path in self.paths]

    @classmethod
    def of_file(cls, path: str, **reading: Any) -> "FastaSource":
        """The source of one file."""
        return cls(paths=(path,), **reading)

    def parts(self, task: Any, seed: int) -> Parts:
        """Windows to train on, and windows of what is held out for validation."""
        # the weights of Benegas et al., PNAS 2023 (GPN)
        weights = {"keep": (1.0, 1.0), "ignore": (0.0, 0.0), "weight": (0.1, 0.0)}[self.softmask]
        train, validation = self._held_out(weights != (1.0, 1.0))
        for part, weight in zip((train, validation), weights, strict=True):
            if not any(((r.codes if weight == 0 else r.codes & (LOWER - 1)) < 4).any() for r in part):
                case = " in upper case" if weight == 0 else ""
                remedy = " or softmask: keep" if weight == 0 else ""
                raise InputError(
                    f"{', '.join(self.paths)}: too few bases A, C, G, T{case} to train on and validate with. "
                    f"Give longer records, or hold out less{remedy}."
                )
        if short := [r.id for r in train if not len(r)]:
            records = "1 record is" if len(short) == 1 else f"{len(short):,} records are"
            warn(f"{', '.join(self.paths)}: {records} of one base and not trained on; first {quoted(short[0])}.")
        return Parts(
            task,
            self._windows([r for r in train if len(r)], task, self.reverse_complement, weights[0]),
            self._windows(validation, task, False, weights[1]),
        )

    def evaluation(self, task: Any) -> Items:
        """Windows of all records, for a model that does not read them as streams."""
        return self._windows(list(self._records()), task, False, every=True)

    def _records(self, keep_case: bool = False) -> Iterator[Record]:
        from titans_seq.data.fasta import read_fasta

        return (record for file in self.files() for record in read_fasta(file, keep_case=keep_case))

    def _held_out(self, keep_case: bool) -> tuple[list[Record], list[Record]]:
        """Pieces of records to train on, which may be empty, and to validate with."""
        records = list(self._records(keep_case))
        held = HeldOut(self.validation_regions, self.test_regions, (record.id for record in records))
        train, validation = [], []
        for piece, use in (piece for record in records for piece in held.pieces(record)):
            if use == 1:
                validation.append(piece)
            elif use == 0 and self.validation_regions:
                train.append(piece)
            elif use == 0:
                cut = len(piece) - max(1, round(self.validation * len(piece)))
                train.append(Record(piece.id, piece.codes[:cut]))
                validation.append(Record(piece.id, piece.codes[cut:]))
        return train, validation

    def _windows(
        self, records: list[Record], task: Any, reverse: bool, lower: float = 1.0, every: bool = False
    ) -> Items:
        """Windows as ``task`` reads them: with masks, where it has a share of ``masked`` bases."""
        windows = GenomeWindows(records, self.length, reverse, lower)
        return MaskedWindows(windows, task.masked, every, task.word) if hasattr(task, "masked") else windows


class SequenceSource(Choice):
    """Labelled sequences; without a validation table a share of the training rows is carved out by seed.

    Of intervals, those that overlap and all windows of one go to one side; a feature of several pieces counts with what
    is between them. So it is with rows of sequences that have chrom, start and end.
    """

    kind: Literal["sequences"] = "sequences"
    places: ClassVar[tuple[str, ...]] = ("train", "validation", "labels", "bigwig")
    streamed: ClassVar[bool] = False
    reading: ClassVar[tuple[str, ...]] = ("sequence", "label", "regions", "bigwig", "missing")
    train: str
    validation: str | None = None
    share: float = Field(default=0.1, gt=0, lt=1, description="Share of the training rows carved out for validation.")
    sequence: str | None = Field(default=None, description="Column of the sequences; found by itself.")
    label: str | tuple[str, ...] | None = Field(
        default=None, description="Column of the labels, or several; found by itself."
    )
    labels: str | None = Field(
        default=None, description="Table of id and label, in place of those beside the sequences."
    )
    regions: Regions = Field(default=Regions(), description="How sequences are cut out of a genome.")
    bigwig: tuple[str, ...] = Field(
        default=(),
        description="BigWig files of values on the genome: their means over bins of task.bin are the labels.",
    )
    missing: Literal["zero", "ignore"] = Field(
        default="zero",
        description="What a base without a value in the bigWig counts: 0, as for Basenji and Enformer; or nothing, so "
        "that a bin is the mean of the others, and no target where there is none.",
    )
    reverse_complement: bool = Field(default=False, description="Train on either strand by chance.")
    on_conflict: Literal["error", "warn"] = Field(
        default="error", description="What one sequence with two labels gets."
    )

    def files(self) -> list[Path]:
        """The files that are read."""
        files = [data_file(path) for path in (self.train, self.validation, self.labels, *self.bigwig) if path]
        return [*files, *self.regions.files()]

    @classmethod
    def of_file(cls, path: str, **reading: Any) -> "SequenceSource":
        """The source of one file; benchmarks hold a few sequences with two labels, which are told and kept."""
        return cls(train=path, on_conflict="warn", **reading)

    def evaluation(self, task: Any) -> LabelledSequences:
        """Every labelled row."""
        return self._items(self.train, self.read(self.train, task), task, False)

    def _items(self, path: str, records: list[Record], task: Any, reverse: bool) -> LabelledSequences:
        targets = [task.target(record, f"{path}: row {record.id!r}") for record in records]
        return LabelledSequences(records, targets, reverse, task.along)

    def read(self, path: str, task: Any) -> list[Record]:
        """Labelled records of a table, intervals, FASTA or folder."""
        from titans_seq.data.sequences import read_sequences

        records = read_sequences(
            data_file(path),
            sequence=self.sequence,
            label=self.label,
            labels=data_file(self.labels) if self.labels else None,
            need_labels=not self.bigwig,
            regions=self.regions,
            form=task.form,
            on_conflict=self.on_conflict,
        )
        return self._with_values(path, records, task) if self.bigwig else records

    def _with_values(self, path: str, records: list[Record], task: Any) -> list[Record]:
        """Intervals with the bigWigs' values, a mean a bin."""
        from titans_seq.data.bigwig import BigWig
        from titans_seq.data.reference import Reference

        if not (task.along and task.form == "numbers" and task.bin):
            raise ConfigError(
                "data.bigwig has values on a genome: give --task tracks, and the bases a bin as --set task.bin=BASES."
            )
        if self.regions.reference is None:
            raise InputError(f"{path} has no intervals, and a bigWig has values on a genome. Give --reference FASTA.")
        aliases = Aliases.of_file(data_file(self.regions.aliases) if self.regions.aliases else None)
        genome = Reference(data_file(self.regions.reference))
        tracks = [BigWig(data_file(track), genome, aliases) for track in self.bigwig]
        found, bases = [], np.zeros(len(tracks) + 1)  # that have a value in each track, and all
        for record in records:
            if record.chrom is None or record.start is None or len(record) % task.bin:
                raise InputError(
                    f"{path}: {quoted(record.id)} is no interval of whole bins of {task.bin} bases: it has "
                    f"{len(record):,}. Give intervals, and --window as a multiple of task.bin."
                )
            end = record.start + len(record)
            place = (record.chrom, record.start, end, record.strand, task.bin)
            means, covered = (np.stack(part, 1) for part in zip(*(t.means(*place) for t in tracks), strict=True))
            if self.missing == "zero":
                means = np.nan_to_num(means) * covered
            found.append(replace(record, values=means.astype(np.float32)))
            bases += len(record) * np.append(covered.mean(0), 1)
        self._tell_uncovered(path, 1 - bases[:-1] / bases[-1])
        return found

    def _tell_uncovered(self, path: str, shares: np.ndarray) -> None:
        """Say once what part of the intervals has no value in each bigWig (K,)."""
        told = [f"{100 * s:.3g} % in {Path(t).name}" for s, t in zip(shares, self.bigwig, strict=True) if s > 0]
        if told:
            counts = "count as 0" if self.missing == "zero" else "are left out of bins and loss"
            warn(
                f"{path}: bases of these intervals have no value, {', '.join(told)}. They {counts} (data.missing="
                f"{self.missing})."
            )

    def split(self, task: Any, seed: int) -> tuple[list[Record], list[Record]]:
        """Records to train on and to validate with."""
        records = self.read(self.train, task)
        if self.validation:
            return records, self.read(self.validation, task)
        held = carved(records, self.share, np.random.default_rng([seed, 3]))
        pairs = list(zip(records, held.tolist(), strict=True))
        return [record for record, is_held in pairs if not is_held], [record for record, is_held in pairs if is_held]

    def parts(self, task: Any, seed: int) -> Parts:
        """Sequences to train on and to validate with; what classes there are the training table says."""
        if task.along and self.regions.jitter:
            raise ConfigError(f"task {task.kind} has labels along the window, which cannot be moved: set jitter to 0.")
        train, validation = self.split(task, seed)
        if not train:
            raise InputError(
                f"{self.train}: its only row, or all of them since they are of one stretch of the genome, or one "
                "sequence, are for validation. Give more rows, or a validation table."
            )
        columns = (self.label,) if isinstance(self.label, str) else self.label or ()
        columns = tuple(Path(track).stem for track in self.bigwig) or columns
        task = task.fitted(self.train, train if self.validation else [*train, *validation], train, columns)
        return Parts(
            task,
            self._items(self.train, train, task, self.reverse_complement),
            self._items(self.validation or self.train, validation, task, False),
        )


class SeriesSource(SeriesReading):
    """Series of a table; by time, the last rows are held out for testing, those before them for validation.

    ``synthetic:SEED/COUNT/LENGTH`` in the place of a file is a panel of series drawn by chance; of these whole series
    are held out, the last ones, and ``validation`` and ``test`` count series.
    """

    kind: Literal["series"] = "series"
    places: ClassVar[tuple[str, ...]] = ("path",)
    reading: ClassVar[tuple[str, ...]] = tuple(SeriesReading.model_fields)
    path: str
    validation: float = Field(default=0.1, gt=0, description="Rows a series, or below 1 their share.")
    test: float = Field(default=0.0, ge=0, description="Rows at the end that training never sees, or their share.")
    sampling: Literal["window", "series"] = Field(
        default="window", description="Train on each window as often as another, or on windows of each series."
    )

    def files(self) -> list[Path]:
        """The files that are read."""
        return [] if is_drawn(self.path) else [data_file(self.path)]

    @classmethod
    def of_file(cls, path: str, **reading: Any) -> "SeriesSource":
        """The source of one file."""
        return cls(path=path, **reading)

    def read(
        self,
        min_rows: int = 2,
        frequency: str | None = None,
        vocabularies: dict[str, tuple[str, ...]] | None = None,
        future: str | None = None,
        leave_short: bool = False,
        judge: Judge = STRICT,
    ) -> SeriesTable:
        """Series as models read them, on an even grid if they are regular; arguments as for `read_series`."""
        table = read_series(
            data_file(self.path),
            future=None if future is None else data_file(future),
            min_rows=min_rows,
            leave_short=leave_short,
            frequency=frequency,
            vocabularies=vocabularies,
            judge=judge,
            **self.model_dump(include=set(self.reading)),
        )
        return spaced(table, self.on_gap, self.path, judge)

    def borders(self, rows: int) -> tuple[int, int, int]:
        """Rows where training, validation and test end."""
        held = [int(part) if part >= 1 else round(part * rows) for part in (self.validation, self.test)]
        return max(0, rows - sum(held)), max(0, rows - held[1]), rows

    def learned(self, task: Any) -> dict[str, Series]:
        """Of each series the rows that a model of this source was trained on or chosen by, in silence."""
        if is_drawn(self.path):
            return {}
        need = task.window + task.horizon
        table = self.read(need, leave_short=True, judge=replace(STRICT, doubt=lambda _: None, tell=lambda _: None))
        ends = {s.id: (s, self.borders(len(s))[1]) for s in table.series if len(s) >= need}
        return {id: replace(s, target=s.target[:end], observed=s.observed[:end]) for id, (s, end) in ends.items()}

    def parts(self, task: Any, seed: int) -> Parts:
        """Windows inside the training rows, and windows whose future lies in the validation rows.

        Series too short for a window are left out, and counted.
        """
        if is_drawn(self.path):
            return self._drawn(task)
        need = task.window + task.horizon
        table = self.read(min_rows=need, leave_short=True)
        series = [timed(s, table.frequency) if table.irregular else s for s in table.series if len(s) >= need]
        borders = [self.borders(len(s)) for s in series]
        short = len(table.series) - sum(b[0] >= need for b in borders)
        if 0 < short < len(table.series):
            warn(
                f"{self.path}: series that are not trained on: {short:,} of {len(table.series):,}; their training rows "
                f"are fewer than the {need:,} of a window."
            )
        if self.on_gap == "interpolate" and any((np.isfinite(s.target) > s.observed).any() for s in series):
            warn(
                f"{self.path}: values in gaps are interpolated, on the line to the value after the gap: look-backs "
                "that end in one know what is to be forecast, of validation windows too, so that their errors are too "
                "small. Take --on-gap ffill or nan."
            )
        if task.channels and task.channels != series[0].columns:
            if lacking := [name for name in task.channels if name not in series[0].columns]:
                raise ConfigError(f"task.channels: {self.path} has no column {', '.join(lacking)}.")
            order = [series[0].columns.index(name) for name in task.channels]
            series = [
                replace(s, target=s.target[:, order], observed=s.observed[:, order], columns=task.channels)
                for s in series
            ]
        if task.zero_shot:
            if table.covariates.names or table.irregular:
                raise ConfigError("task.zero_shot is for any table, and not each has covariates or the same times.")
            series = [standardised(s, b[0]) for s, b in zip(series, borders, strict=True)]
        train = SeriesWindows(
            series,
            [(0, b[0]) for b in borders],
            task.window,
            task.horizon,
            open=task.open,
            balanced=self.sampling == "series",
        )
        validation = SeriesWindows(series, [(b[0], b[1]) for b in borders], task.window, task.horizon)
        for name, part, more in (("train on", train, need), ("validate with", validation, task.horizon)):
            if not len(part):
                rows = max(map(len, series))
                raise InputError(
                    f"{self.path}: too few rows to {name}: the longest series has {rows}, "
                    f"of which {borders[0]} end the training, validation and test parts; a window needs {more}. "
                    "Give more rows, or a smaller horizon, look-back or validation part."
                )
        known = np.concatenate([s.target[: b[0]] for s, b in zip(series, borders, strict=True)])
        C = known.shape[1]
        location, scale = ((0.0,) * C, (1.0,) * C) if task.zero_shot else moments(known)
        if not task.zero_shot:
            _tell_of_small(series, [b[0] for b in borders], scale, self.path)
        update = {
            "channels": task.channels or series[0].columns,
            "location": location,
            "scale": scale,
            "frequency": table.frequency,
            "irregular": table.irregular,
            "reading": {}
            if task.zero_shot
            else self.model_dump(mode="json", include=set(self.reading), exclude_defaults=True),
            "covariates": task.covariates.model_copy(
                update={**vars(table.covariates), **_moments(series, [b[0] for b in borders])}
            ),
        }
        return Parts(task.model_copy(update=update), train, validation)

    def _drawn(self, task: Any) -> Parts:
        """A window of each series of a panel drawn by chance, to train on or to validate with."""
        from titans_seq.data.series.synthetic import COLUMN, STEP, DrawnWindows, panel_named

        if told := self.model_dump(include=set(self.reading), exclude_defaults=True):
            raise ConfigError(f"data.{next(iter(told))} says how a table is read; {self.path} is drawn: leave it out.")
        panel, need = panel_named(self.path), task.window + task.horizon
        if panel.rows < need:
            raise ConfigError(
                f"{self.path} has series of {panel.rows:,} rows, and a window needs {need:,}: ask for more."
            )
        train, validation, _ = self.borders(panel.size)
        if not 0 < train < validation:
            raise ConfigError(f"{self.path}: of {panel.size:,} series {max(0, train):,} are left to train on.")
        fitted = {"channels": (COLUMN,), "location": (0.0,), "scale": (1.0,), "frequency": STEP}
        return Parts(
            task.model_copy(update=fitted),
            DrawnWindows(panel, range(train), task.window, task.horizon, task.open),
            DrawnWindows(panel, range(train, validation), task.window, task.horizon),
        )


def moments(rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of rows (T, C); 1 for one of 0, 0 and 1 where nothing is known."""
    if not len(rows):
        return (0.0,) * rows.shape[1], (1.0,) * rows.shape[1]
    rows = _told(rows)
    scale = np.nanstd(rows, axis=0)
    return tuple(np.nanmean(rows, axis=0).tolist()), tuple(np.where(scale > 0, scale, 1.0).tolist())


def _tell_of_small(series: list[Series], ends: list[int], scale: tuple[float, ...], path: str) -> None:
    """Warn of series that move by far less than the table, whose deviation is the unit of all."""
    small = []
    for s, end in zip(series, ends, strict=True):
        if not end:
            continue
        spread = np.nanmax(_told(s.target[:end]), axis=0) - np.nanmin(_told(s.target[:end]), axis=0)
        if ((spread > 0) & (spread < SMALL * np.array(scale))).any():
            small.append(s.id)
    if small:
        warn(
            f"{path}: series that move by less than {SMALL:g} of the table's deviation, in which all are measured: "
            f"{len(small):,} of {len(series):,}, first {quoted(small[0])}. Little will be learned of them. Bring the "
            "series to one scale, or train these apart."
        )


def own_moments(series: Series, end: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`moments` of a series' own first ``end`` rows; 0 and 1 of a channel that these do not tell."""
    return moments(series.target[:end])


def _told(rows: np.ndarray) -> np.ndarray:
    """Rows (T, C) with zeros for a channel of which nothing is known."""
    return np.where(np.isfinite(rows).any(0), rows, 0.0)


def standardised(series: Series, end: int) -> Series:
    """The series in units of its own first ``end`` rows; a channel that these do not tell stays as it is."""
    location, scale = own_moments(series, end)
    return replace(series, target=(series.target - np.array(location)) / np.array(scale))


def _moments(series: list[Series], ends: list[int]) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of each covariate over the training rows; 0 and 1 where nothing is known."""
    parts = [
        np.concatenate([s.known_future[:end] for s, end in zip(series, ends, strict=True)]),
        np.concatenate([s.past_only[:end] for s, end in zip(series, ends, strict=True)]),
        np.stack([s.static for s in series]),
    ]
    location, scale = [], []
    for column in (column for part in parts for column in part.T.astype(np.float64)):
        known = column[np.isfinite(column)]
        location.append(float(known.mean()) if len(known) else 0.0)
        scale.append(float(known.std()) or 1.0 if len(known) else 1.0)
    return {"location": tuple(location), "scale": tuple(scale)}


SOURCES: dict[str, Any] = {"fasta": FastaSource, "sequences": SequenceSource, "series": SeriesSource}
Source = Annotated[FastaSource | SequenceSource | SeriesSource, Field(discriminator="kind")]
