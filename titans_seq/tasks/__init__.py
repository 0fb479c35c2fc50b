"""Tasks: each file owns head, loss, metrics and output columns, so that no ``if task ==`` exists anywhere.

To add one: a file here, and its class in `Task`.
"""

from typing import Annotated

from pydantic import Field

from titans_seq.tasks.classification import Classification
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.tasks.language import LanguageModel
from titans_seq.tasks.masked import MaskedLanguageModel
from titans_seq.tasks.multilabel import MultiLabel
from titans_seq.tasks.regression import Regression
from titans_seq.tasks.segmentation import Segmentation
from titans_seq.tasks.tracks import Tracks

Task = Annotated[
    LanguageModel
    | MaskedLanguageModel
    | Classification
    | MultiLabel
    | Regression
    | Segmentation
    | Tracks
    | Forecasting,
    Field(discriminator="kind"),
]
