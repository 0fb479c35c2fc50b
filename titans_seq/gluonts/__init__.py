"""Our models at home in GluonTS: an estimator, predictors, and series as dataset entries.

Needs ``pip install 'titans-seq[gluonts]'``.
"""

try:
    import gluonts.torch  # noqa: F401
except ImportError as error:
    raise ImportError(f"titans_seq.gluonts needs GluonTS: pip install 'titans-seq[gluonts]' ({error}).") from error

from titans_seq.gluonts.entries import from_frame, pandas_frequency, to_entries, to_entry, to_frame, to_series
from titans_seq.gluonts.estimator import TitansEstimator
from titans_seq.gluonts.predictor import TitansPredictor, predictor_of

__all__ = [
    "TitansEstimator",
    "TitansPredictor",
    "from_frame",
    "pandas_frequency",
    "predictor_of",
    "to_entries",
    "to_entry",
    "to_frame",
    "to_series",
]
