"""What a student may begin with beside its teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lm.calibration import Batch
from lm.tokenizer import Tokenizer


@dataclass(frozen=True)
class StudentInputs:
    """folder: of the model that distill.learner names; tokenizer: the teacher's. batches(): what the teacher reads where its
    parts are told by what they do: (ids_BT, mask_BT) of the first step's demonstrations and text."""

    folder: Path
    tokenizer: Tokenizer
    batches: Callable[[], list[Batch]]
