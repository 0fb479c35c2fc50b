"""Needles and two-hop facts up to 2,097,152 tokens: ``titans-seq bench needles``, its results kept here."""

import sys
from pathlib import Path

from titans_seq.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "needles", "--out", str(Path(__file__).parent / "results")]
    main()
