"""Titans' ablation on nucleotides: ``titans-seq bench ablation``, its results kept here."""

import sys
from pathlib import Path

from titans_seq.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["bench", "ablation", "--out", str(Path(__file__).parent / "results")]
    main()
