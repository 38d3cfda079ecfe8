"""The section `gates` of params.yaml: what a model must reach to become the champion. No stage reads it."""

from typing import Any

from pydantic import Field

from lm.config import Config, ConfigError
from tasks.core.config import GATES, load


class Gates(Config):
    """What is absent is not asked for."""

    max_accuracy_loss: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of right answers that the model may lack beside the champion, with certainty",
    )
    max_bits_per_byte: float | None = Field(None, gt=0, description="on held-out documents")
    max_size_bytes: int | None = Field(None, gt=0, description="of the weights on disk")

    @property
    def asked(self) -> bool:
        """Whether anything is asked for."""
        return any(value is not None for value in self.model_dump().values())


def gates_of(params: dict[str, Any]) -> Gates:
    """The gates that params have; none where they have no such section. Raises ConfigError."""
    return load(GATES, Gates, params) if GATES in params else Gates()


def gate_mistakes(params: dict[str, Any]) -> list[str]:
    """One line for each mistake in the section."""
    try:
        gates_of(params)
    except ConfigError as error:
        return str(error).splitlines()
    return []
