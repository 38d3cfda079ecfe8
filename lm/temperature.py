"""Temperatures that logits can be divided by."""

from typing import Annotated

from pydantic import AfterValidator, Field

# Least temperature above 0, at which a logit lower by 0.001 is e^1000 times less likely. At 1e-38 logits from 4 on are beyond
# fp32 when they are divided by it, and nothing can be drawn.
COLDEST = 1e-6


def _zero_or_divisor(temperature: float) -> float:
    if 0 < temperature < COLDEST:
        raise ValueError(f"must be 0, for the likeliest, or {COLDEST:g} and more (got {temperature:g})")
    return temperature


# 0 takes the likeliest.
Temperature = Annotated[float, Field(ge=0), AfterValidator(_zero_or_divisor)]
# Of distributions, which have none at 0.
Divisor = Annotated[float, Field(ge=COLDEST)]
