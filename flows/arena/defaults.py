"""What a study takes where it says nothing: defaults.yaml, beside this file."""

from functools import cache
from pathlib import Path

from lm.config import Config
from tasks.core.yaml import read_yaml


class Defaults(Config):
    """measure: a metric of a stage. trained: the stage whose budget is spent, by the parameter `tokens`. rate: what is tuned
    for methods without a rate of their own. data: stages whose parameters decide what is trained on."""

    measure: str
    trained: str
    tokens: str
    rate: str
    data: tuple[str, ...]


@cache
def defaults() -> Defaults:
    """The values of defaults.yaml."""
    return Defaults.model_validate(read_yaml(Path(__file__).with_suffix(".yaml")), strict=False)
