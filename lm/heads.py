"""Scalar heads on a decoder: what scores a conversation, read at its last token.

Letters: N conversations, R rows read together, L tokens of a row, D width, M heads.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lm.checkpoint import save_model
from lm.linears.base import Roles
from lm.model import HEADS, Decoder
from lm.model_folder import read_model
from lm.sampler import whole_pieces
from lm.tokenizer import Tokenizer
from lm.training.data.conversations import hidden_at

# Beside a model's files in its folder
FILE = "heads.safetensors"
# Rows that are read together, whatever there is to read: how many a product has decides its last bits
ROWS = 16


class ScalarHeads(nn.Linear):
    """x_RD -> score_RM in fp32, whatever the precision of products. Weights begin normal with a variance of 1 / (D + 1), as
    Stiennon et al. 2020 (arXiv:2009.01325) draw theirs, each head its own; biases as zeros. `seed` decides them."""

    roles: ClassVar[Roles] = {"weight": "output", "bias": "vector"}

    def __init__(self, width: int, members: int, seed: int) -> None:
        super().__init__(width, members)
        with torch.no_grad():
            self.weight.normal_(0, 1 / math.sqrt(width + 1), generator=torch.Generator().manual_seed(seed))
            self.bias.zero_()

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.float(), self.weight, self.bias)


def put_heads(model: Decoder, heads: ScalarHeads) -> None:
    """Have the model carry these heads, which are then trained with it. Its output head is not: nothing reads it meanwhile."""
    where = model.embedding.weight.device
    # fake tensors, of which forecasts are made, cannot be moved
    model.add_module(HEADS, heads if heads.weight.device == where else heads.to(where))
    if not model.config.tied:
        model.head.requires_grad_(False)


def take_heads(model: Decoder) -> ScalarHeads:
    """The heads, which the model carries no more; then all of it can be trained again."""
    heads = heads_of(model)
    delattr(model, HEADS)
    model.requires_grad_(True)
    return heads


def heads_of(model: Decoder) -> ScalarHeads:
    """The heads that the model carries."""
    found = model.get_submodule(HEADS)
    assert isinstance(found, ScalarHeads)
    return found


def scores_at(model: Decoder, ids_RL: Tensor, last_R: Tensor) -> Tensor:
    """score_RM of rows whose last tokens stand at last_R; what stands behind them is padding."""
    rows, length = ids_RL.shape
    places_R = torch.arange(rows, device=ids_RL.device) * length + last_R
    return heads_of(model)(hidden_at(model, ids_RL, places_R))


def scores_of(model: Decoder, conversations: Sequence[Sequence[int]], pad_id: int) -> Tensor:
    """score_NM, fp32 in host memory, of whole conversations as token ids, none of them longer than the context: `scores_along`
    of their last tokens."""
    found = scores_along(model, conversations, [[len(ids) - 1] for ids in conversations], pad_id)
    return torch.cat(found) if found else torch.zeros(0, heads_of(model).out_features)


@torch.no_grad()
def scores_along(
    model: Decoder, conversations: Sequence[Sequence[int]], ends: Sequence[Sequence[int]], pad_id: int
) -> list[Tensor]:
    """score_EM of each conversation, fp32 in host memory: as if it ended with the token at each of these E places, which one
    reading of the whole tells, since nothing sees what is behind it. None is longer than the context.

    A score follows from the model and its own conversation alone, on a CPU to the last bit: every pass has ROWS rows of a
    length that follows from each of them, and every product of the heads ROWS places; of a model with experts to rounding,
    since a product has as many rows as tokens chose the expert. The model is left in the mode in which it was.
    """
    training = model.training
    model.eval()
    where, heads = model.embedding.weight.device, heads_of(model)
    alike: dict[int, list[int]] = defaultdict(list)
    for place, ids in enumerate(conversations):
        alike[whole_pieces(len(ids), model.config.context)].append(place)
    found = [torch.zeros(len(each), heads.out_features) for each in ends]
    for length, places in sorted(alike.items()):
        for first in range(0, len(places), ROWS):
            some = places[first : first + ROWS]
            ids_RL = torch.full((ROWS, length), pad_id)
            for row, place in enumerate(some):
                ids_RL[row, : len(conversations[place])] = torch.tensor(conversations[place])
            read = [row * length + end for row, place in enumerate(some) for end in ends[place]]
            places_K = torch.tensor(read + [0] * (-len(read) % ROWS))
            x_KD = hidden_at(model, ids_RL.to(where), places_K.to(where))
            scores = torch.cat([heads(x_RD) for x_RD in x_KD.split(ROWS)])[: len(read)].float().cpu()
            for place, score_EM in zip(some, scores.split([len(ends[place]) for place in some]), strict=True):
                found[place] = score_EM
    model.train(training)
    return found


def lower_bound(scores_NM: Tensor, penalty: float) -> Tensor:
    """bound_N: the mean over heads less so many times their standard deviation, that of the M heads themselves (over M); of one
    head its score."""
    return scores_NM.mean(1) - penalty * scores_NM.std(1, correction=0)


def save_scorer(folder: Path, model: Decoder, tokenizer: Tokenizer) -> None:
    """Write the model as any other, and its heads beside it, which it carries no more; the same weights give the same bytes."""
    heads = take_heads(model)
    save_model(folder, model, tokenizer)
    save_file({name: weight.detach().cpu().contiguous() for name, weight in heads.state_dict().items()}, folder / FILE)


def read_scorer(folder: Path) -> tuple[Decoder, Tokenizer]:
    """The model with its heads, in fp32 and evaluation mode, and its tokenizer. Raises ValueError naming the file that is
    missing, torn or does not fit."""
    path = folder / FILE
    if not path.exists():
        raise ValueError(f"{path}: no such file: the model in {folder} has no heads that score")
    model, tokenizer = read_model(folder)
    try:
        state = load_file(path)
        members, width = state["weight"].shape
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if width != model.config.width or state.keys() != {"weight", "bias"} or state["bias"].shape != (members,):
        raise ValueError(f"{path}: heads of width {width}, and the model beside them has {model.config.width}")
    heads = ScalarHeads(width, members, 0)
    heads.load_state_dict(state)
    put_heads(model, heads)
    return model.eval(), tokenizer
