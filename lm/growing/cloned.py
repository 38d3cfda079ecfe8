"""A wider model that is the smaller one's function, its states being that one's several times over: HyperCloning, Samragh et
al. 2024 (arXiv:2409.12903), section 3."""

import math

import torch
from torch import Tensor

from lm.growing.fitting import check_layers, check_more, check_no_less, check_unchanged
from lm.growing.widths import OF_LAYER, OF_MODEL, Places, check_known, in_turn, places_of, ranks_of, scale_, widen
from lm.model import Decoder, ModelConfig


def check(small: ModelConfig, large: ModelConfig, slot: str) -> None:
    """Raises ConfigError, which names the parameter below `slot`, for a width that is no multiple of the smaller model's, for
    another number of layers, and where nothing is larger."""
    check_unchanged(small, large, slot, ["layers"])
    check_no_less(small, large, slot, multiples=True)
    check_more(small, large, slot)
    check_layers(small, large, range(small.layers), slot)
    check_known(small, slot)


def cloned(small: Decoder, large: ModelConfig, snr_db: float | None, seed: int, slot: str) -> Decoder:
    """The larger model, in evaluation mode: every width is a whole number of times the smaller one's, and every matrix that
    many copies of the smaller one's, each divided by how many its inputs are. With snr_db, noise is added to one copy and taken
    from its neighbour, so that their inputs, which are equal, do not show it: the logits stay the smaller model's. A tied head
    reads what the last norm gives, whose weights are divided.
    Raises ConfigError as `check` does."""
    check(small.config, large, slot)
    places = places_of(small.config, large, in_turn)
    noise = None if snr_db is None else Noise(places, snr_db, seed)
    made = widen(small, large, places, range(large.layers), noise)
    if large.tied:
        scale_(made, small.config.width / large.width)
    return made


class Noise:
    """(name of a matrix, weight_OS) -> noise_OT of its copies: of each block, which is a copy of its outputs and one of its
    inputs, that of the block before with its sign turned; of an odd number of copies of inputs the last has none."""

    def __init__(self, places: Places, snr_db: float, seed: int) -> None:
        self._places, self._share = places, 10 ** (-snr_db / 20)
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, weight_OS: Tensor) -> Tensor:
        outputs, inputs = OF_MODEL.get(name) or OF_LAYER[name.split(".", 2)[2]]
        places_T = self._places.of(inputs)
        assert places_T is not None
        places_O = self._places.of(outputs)
        rows_O = torch.zeros(len(weight_OS), dtype=torch.int64) if places_O is None else ranks_of(places_O)
        ranks_T = ranks_of(places_T)
        copies = int(ranks_T.max()) + 1
        noise_OT = torch.zeros(len(weight_OS), len(places_T), dtype=weight_OS.dtype)
        for row in range(int(rows_O.max()) + 1):
            block = weight_OS[rows_O == row] / copies
            for first in range(0, copies - 1, 2):
                drawn = torch.randn(block.shape, generator=self._generator)
                drawn *= self._share * math.sqrt(float(block.square().mean() / drawn.square().mean()))
                for rank, sign in ((first, 1), (first + 1, -1)):
                    columns = (ranks_T == rank).nonzero()[:, 0]
                    noise_OT[(rows_O == row).nonzero(), columns] = sign * drawn[:, places_T[columns]]
        return noise_OT
