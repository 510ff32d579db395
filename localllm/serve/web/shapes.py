"""What the bodies of both APIs have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """A request's body. Types are taken as they are written (no "0.5" for 0.5); fields that are
    not known are let pass, since clients are newer than servers."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, frozen=True)
