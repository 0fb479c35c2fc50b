"""Tasks: each file owns head, loss, metrics and output columns, so that no ``if task ==`` exists anywhere.

To add one: a file here, and its class in `Task`.
"""

from typing import Annotated

from pydantic import Field

from titans_seq.tasks.classification import Classification
from titans_seq.tasks.forecasting import Forecasting
from titans_seq.tasks.language import LanguageModel
from titans_seq.tasks.masked import MaskedLanguageModel

Task = Annotated[LanguageModel | MaskedLanguageModel | Classification | Forecasting, Field(discriminator="kind")]
