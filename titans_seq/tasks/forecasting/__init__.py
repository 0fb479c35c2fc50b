"""Multivariate probabilistic forecasting: patches of a look-back window, or of a stream, in; the horizon out.

`task` says what is forecast from what, `window` and `stream` are its two heads, `head` what these share,
`covariates` what is read beside the channels, and `variates` what channels tell each other.
"""

from titans_seq.tasks.forecasting.covariates import Covariates
from titans_seq.tasks.forecasting.stream import Opened, Scaled
from titans_seq.tasks.forecasting.task import Forecasting

__all__ = ["Covariates", "Forecasting", "Opened", "Scaled"]
