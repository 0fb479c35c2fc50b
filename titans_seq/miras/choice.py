"""What all four kinds of choice have in common."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Choice(BaseModel):
    """One design choice: immutable, validated, stored in ``config.json`` as it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MemoryChoice(Choice):
    """One of MIRAS' four choices, and the operators that carry it out: of `titans_seq.ops`, by name."""

    operators: ClassVar[tuple[str, ...]] = ("memory_scan",)
