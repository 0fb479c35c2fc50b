"""The page of a run, and the pictures of predictions."""

from pathlib import Path


def write_report(run: Path) -> None:
    """Write ``report.html`` into a run folder."""
