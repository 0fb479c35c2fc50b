"""Recall and state tracking by small models: ``titans-seq bench recall``, its results kept here."""

import sys
from pathlib import Path

from titans_seq.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "recall", "--out", str(Path(__file__).parent / "results")]
    main()
