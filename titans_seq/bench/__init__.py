"""What this installation does, measured, and kept cell by cell by `results`.

Speed and memory: `memory` one layer beside its peers, `long` whole backbones over millions of tokens. Every number
comes from a process that does nothing else (`worker`). Quality: `recall` small models on generated tasks (`synthetic`),
`ablation` what each part of a memory is worth to a language model; each a table of trials (`trial`).
"""
