"""Speed and memory, measured: `memory` one layer beside its peers, `long` whole backbones over millions of tokens.

Every number comes from a process that does nothing else (`worker`); `results` keeps it, cell by cell.
"""
