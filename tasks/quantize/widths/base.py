"""What a choice of bits is asked, and how it says how far it is."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from lm.calibration import Batch
from lm.config import Config
from lm.model import Decoder
from lm.quantized.base import PackedMatrix

# done, of how many, and of what
Progress = Callable[[int, int, str], None]
# of a model that was not trained in few bits
NONE: Mapping[str, PackedMatrix] = MappingProxyType({})


class Width(Config):
    """needs_calibration: whether it asks what the model does."""

    needs_calibration: ClassVar[bool] = False

    def check(self, method: Any) -> None:
        """Raises ConfigError for a method of quantize.method that it cannot choose for."""

    @abstractmethod
    def choose_bits(
        self,
        model: Decoder,
        method: Any,
        batches: list[Batch],
        progress: Progress,
        trained: Mapping[str, PackedMatrix] = NONE,
    ) -> dict[str, int]:
        """Bits by the name of each matrix of the blocks; none for what quantize.method says. trained: matrices that are packed
        as they are, by the names of their weights. The model is left as it is."""
