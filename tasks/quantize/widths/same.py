"""All of them what quantize.method says."""

from collections.abc import Mapping
from typing import Any, Literal

from lm.calibration import Batch
from lm.model import Decoder
from lm.quantized.base import PackedMatrix
from tasks.quantize.widths.base import NONE, Progress, Width


class Same(Width):
    name: Literal["same"] = "same"

    def choose_bits(
        self,
        model: Decoder,
        method: Any,
        batches: list[Batch],
        progress: Progress,
        trained: Mapping[str, PackedMatrix] = NONE,
    ) -> dict[str, int]:
        return {}
