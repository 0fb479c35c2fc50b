"""Audits: what is in a file, what training would refuse, and what a test set shares with its training set.

`sequences` and `series` read, one a field; `leaks`, `near` and `confounding` compare; `found` is what they all give.
"""

from titans_seq.data.audit.sequences import audit_sequences
from titans_seq.data.audit.series import audit_series

__all__ = ["audit_sequences", "audit_series"]
