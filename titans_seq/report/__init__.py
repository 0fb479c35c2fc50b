"""The page of a run, and the pictures of predictions."""

from titans_seq.report.page import write_report

__all__ = ["write_report"]
