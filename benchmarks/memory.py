"""One memory layer beside titans-pytorch and attention: ``titans-seq bench memory``, its results kept here."""

import sys
from pathlib import Path

from titans_seq.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "memory", "--out", str(Path(__file__).parent / "results")]
    main()
