"""Efficient prompt tuning, Lan et al. 2024 (arXiv:2405.11464): a shorter prompt beside a low-rank update of the embeddings of a
text's first tokens, fused with each other, and projected into several spaces that a gate weighs.

Letters as in lm/prompts/base.py; R rank, K spaces, H width of a space.
"""

import math
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lm.linears.base import Roles
from lm.prompts.base import Prompt, PromptTensors, SoftPrompt


def fused(vectors_PD: Tensor, offsets_SD: Tensor) -> Tensor:
    """Prompt fusion: P + softmax(P U^T / sqrt(D)) U, each vector with what it finds among the offsets U."""
    scores_PS = vectors_PD @ offsets_SD.T / math.sqrt(vectors_PD.shape[1])
    return vectors_PD + scores_PS.softmax(-1) @ offsets_SD


def in_spaces(fused_PD: Tensor, gate_KD: Tensor, down_KHD: Tensor, up_KDH: Tensor) -> Tensor:
    """Multi-space projection: F + sum over k of g_k up_k tanh(down_k F), where the gate g = softmax(W F) of each vector weighs
    its K spaces."""
    gates_PK = (fused_PD @ gate_KD.T).softmax(-1)
    inner_KPH = torch.einsum("pd,khd->kph", fused_PD, down_KHD).tanh()
    return fused_PD + torch.einsum("pk,kph,kdh->pd", gates_PK, inner_KPH, up_KDH)


class Decomposed(SoftPrompt):
    """The prompt while it is trained. The update of the embeddings is a product, rows_SR columns_RD."""

    roles: ClassVar[Roles] = dict.fromkeys(("vectors", "rows", "columns", "gate", "down", "up"), "vector")

    def __init__(self, vectors_PD: Tensor, method: "Ept") -> None:
        super().__init__(vectors_PD)
        D, device = vectors_PD.shape[1], vectors_PD.device
        draw = np.random.Generator(np.random.Philox(key=[method.seed, 1]))
        K, H, R = method.spaces, method.inner, method.rank

        def normal(*shape: int, fan_in: int) -> nn.Parameter:
            values = draw.normal(0, 1 / math.sqrt(fan_in), shape).astype(np.float32)
            return nn.Parameter(torch.from_numpy(values).to(device))

        self.rows = normal(method.places, R, fan_in=R)
        self.columns = nn.Parameter(torch.zeros(R, D, device=device))
        self.gate = nn.Parameter(torch.zeros(K, D, device=device))
        self.down = normal(K, H, D, fan_in=D)
        self.up = nn.Parameter(torch.zeros(K, D, H, device=device))

    def forward(self) -> PromptTensors:
        offsets_SD = self.rows @ self.columns
        return PromptTensors(in_spaces(fused(self.vectors, offsets_SD), self.gate, self.down, self.up), offsets_SD)


class Ept(Prompt):
    """Decomposed: where prompt tuning has a long prompt, which every text is read behind, this has a short one, and S x R and
    R x D numbers whose product is added to the embeddings of a text's first S tokens at no cost in length. When it is trained,
    vectors and offsets are computed once, and of what made them nothing is left, since none of it depends on the text.

    Differs from the paper: the fusion adds to the short prompt, as does the projection, and both begin as zeros, so that the
    first step is prompt tuning's; attention has no matrices of its own; a space is tanh between two matrices; the rate is the
    same for all parts, where the paper has one for the prompt and one for the low-rank matrices; nothing is kept in 4 bits."""

    name: Literal["ept"] = "ept"
    length: int = Field(8, gt=0, description="vectors in front of every text")
    places: int = Field(32, gt=0, description="tokens at the beginning of every text whose embeddings are moved")
    rank: int = Field(4, gt=0, description="of how they are moved")
    spaces: int = Field(4, gt=0, description="into which the prompt is projected")
    inner: int = Field(8, gt=0, description="numbers of a vector in a space")

    def build(self, embedding_VD: Tensor) -> SoftPrompt:
        return Decomposed(self.initial_vectors(embedding_VD), self)
