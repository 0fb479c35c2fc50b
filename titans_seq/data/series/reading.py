"""What the user may say about how a table of series is to be read."""

from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from titans_seq.data.times import frequency_named
from titans_seq.miras.choice import Choice

Layout = Literal["wide", "long", "tsf", "ragged"]
OnDuplicate = Literal["error", "mean", "first", "last"]
OnGap = Literal["nan", "ffill", "interpolate", "keep", "error"]


TIMES = ("ds", "timestamp", "datetime", "date_time", "ts", "date", "time")
IDS = ("unique_id", "item_id", "series_id", "id", "series")
VALUES = ("y", "value", "target")
MISSING = ("", "NA", "NaN", "nan", "null", "None", "-", "?")
LARGEST = float(np.finfo(np.float32).max)  # models compute in single precision


class SeriesReading(Choice):
    """Layout, columns and time of a table; what is not said is found out, and told."""

    format: Literal["auto"] | Layout = Field(
        default="auto",
        description="wide: a column a variable; long: a column of ids; tsf: Monash's; ragged: a series a row.",
    )
    time: str | None = Field(
        default=None, description="Column of the timestamps, or year,month,day ... of their parts; found by itself."
    )
    id: str | None = Field(default=None, description="Column of the series' ids, in a long or ragged table.")
    target: tuple[str, ...] = Field(default=(), description="Columns to forecast; all that hold numbers if empty.")
    known_future: tuple[str, ...] = Field(
        default=(), description="Covariates of which future values are known too, such as holidays."
    )
    past_only: tuple[str, ...] = Field(default=(), description="Covariates known up to now.")
    static: tuple[str, ...] = Field(default=(), description="Covariates that do not change within a series.")
    time_format: str | None = None
    freq: str = Field(default="auto", description="Step of the timestamps: 15min, h, D, W, MS ...; found by itself.")
    missing: tuple[str, ...] = Field(
        default=(), description="What stands for a missing value, besides NA, NaN and the like; such as -9999."
    )
    on_duplicate: OnDuplicate = "error"
    on_gap: OnGap = Field(
        default="nan",
        description="nan: a missing row is one of missing values; ffill, interpolate: it is filled, and never scored "
        "(interpolate knows the value after the gap); keep: rows as they come, for irregular series.",
    )

    @field_validator("freq")
    @classmethod
    def _own_name(cls, given: str) -> str:
        return given if given == "auto" else frequency_named(given)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Columns of covariates of all three kinds."""
        return (*self.known_future, *self.past_only, *self.static)

    @property
    def frequency(self) -> str | None:
        """The step that was said, None where it is to be found."""
        return None if self.freq == "auto" else self.freq
