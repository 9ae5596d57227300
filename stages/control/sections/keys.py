"""What the sections of a control file are made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Optimizer = Literal["adam", "lbfgs", "lstsq"]
Loss = Literal["mse", "l1", "huber"]
Weighting = Literal["per_atom_squared", "per_atom", "total"]

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(gt=0, lt=1)]


def key(
    default: Any,
    description: str,
    *,
    example: Any,
    unit: str = "",
    otherwise: str = "",
    **limits: Any,
) -> Any:
    """A key of a section: default, meaning, example, unit and limits.

    otherwise: what an absent or null value means, where the default itself does not say it.
    """
    extra = {name: text for name, text in (("unit", unit), ("otherwise", otherwise)) if text}
    return Field(
        default, description=description, examples=[example], json_schema_extra=extra, **limits
    )


class Section(BaseModel):
    """What all sections share: unknown keys, wrong types and infinities are refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=False,
        protected_namespaces=(),
    )
