"""A rank of a training that the first one has started: reads from stdin where it stands and what to train."""

import json
import signal
import sys
from pathlib import Path

from titans_seq.errors import TitansError
from titans_seq.job import prepare
from titans_seq.recipe import build
from titans_seq.run import follow, must_share
from titans_seq.training.world import Place


def main() -> int:
    """Train as one rank of several, and say nothing: the first one tells."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C on a terminal reaches all; the first rank stops the others
    told = json.load(sys.stdin)
    job, place = told["job"], Place(*told["place"])
    try:
        recipe = build(job["recipe"], name="the recipe")
        prepare(job["device"], recipe.threads, width=recipe.backbone.width)
        must_share(recipe, place, job["device"])
        follow(recipe, Path(job["out"]), job["device"], place)
    except TitansError as error:
        return int(getattr(error, "exit_code", error.code))
    return 0


if __name__ == "__main__":
    sys.exit(main())
