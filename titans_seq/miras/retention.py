"""Retention gate: what the memory forgets while it learns.

To add one: write a class below and list it in `RETENTIONS`.
"""

from typing import Literal

from pydantic import Field

from titans_seq.miras.choice import Choice


class Forgetting(Choice):
    r"""L2 retention, Titans' forgetting gate α.

    ``towards="initial"``: $W_t = (1-\alpha_t) W_{t-1} + \alpha_t W_{init} + S_t$; what was learned fades, what was
    trained stays. ``towards="zero"``: $W_t = (1-\alpha_t) W_{t-1} + S_t$ as printed (Titans, eq. 13); for a
    memory of two layers and more zero absorbs: both matrices reach it on long input and nothing is learned again.
    """

    kind: Literal["forgetting"] = "forgetting"
    towards: Literal["initial", "zero"] = Field(default="initial", description="Where an idle memory returns to.")


RetentionGate = Forgetting
RETENTIONS: tuple[type[Forgetting], ...] = (Forgetting,)
