"""What all four kinds of choice have in common."""

from pydantic import BaseModel, ConfigDict


class Choice(BaseModel):
    """One design choice: immutable, validated, stored in ``config.json`` as it stands."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
