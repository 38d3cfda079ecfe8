"""A model as it is, all of which is trained."""

from typing import Literal

from lm.config import Config


class Without(Config):
    """Texts begin with themselves; a prompt that the model brings along is trained like all else."""

    name: Literal["none"] = "none"
