"""A prompt of vectors in front of every text (soft prompt): what it is made of, and how a model carries it.

Letters: P vectors of the prompt, S places of a text that are moved, V vocabulary; others as in lm/shape.py.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lm.config import Config, ConfigError
from lm.linears.base import Roles


class PromptTensors(NamedTuple):
    """What a pass reads of a prompt: vectors_PD, in front of the embedded tokens, and offsets_SD, added to the embeddings of
    the first S tokens of every text (None: nothing is)."""

    vectors_PD: Tensor
    offsets_SD: Tensor | None = None


class PromptState(NamedTuple):
    """What is left of training in a file of its own: the vectors_PD."""

    vectors_PD: Tensor


class SoftPrompt(nn.Module):
    """A prompt of P vectors, and of offsets for the first S tokens, as a model is saved with it. What is still being trained
    may be made of other parameters, and is a subclass."""

    roles: ClassVar[Roles] = {"vectors": "vector", "offsets": "vector"}

    # whether it is left in a file of its own beside the model, too
    keep = False

    def __init__(self, vectors_PD: Tensor, offsets_SD: Tensor | None = None) -> None:
        super().__init__()
        self.vectors = nn.Parameter(vectors_PD)
        self.offsets = None if offsets_SD is None else nn.Parameter(offsets_SD)

    def __len__(self) -> int:
        """Vectors in front of a text."""
        return len(self.vectors)

    def forward(self) -> PromptTensors:
        return PromptTensors(self.vectors, self.offsets)

    def settled(self) -> "SoftPrompt":
        """The prompt that gives the same, of vectors and offsets alone."""
        with torch.no_grad():
            read = self()
        return SoftPrompt(*(None if part is None else part.detach().clone() for part in read))  # type: ignore[arg-type]

    def described(self) -> dict[str, int]:
        """What config.json says of it."""
        read = self()
        return {"length": len(self), "offsets": 0 if read.offsets_SD is None else len(read.offsets_SD)}

    @staticmethod
    def of(described: dict[str, int], width: int) -> "SoftPrompt":
        """An empty one of these sizes. Raises ValueError for what is no description of one."""
        if described.keys() != {"length", "offsets"} or not all(type(size) is int for size in described.values()):
            raise ValueError("soft_prompt: must have the whole numbers length and offsets")
        offsets = torch.zeros(described["offsets"], width) if described["offsets"] else None
        return SoftPrompt(torch.zeros(described["length"], width), offsets)


class PromptableModel(Protocol):
    """What can carry a prompt: a decoder."""

    @property
    def embedding(self) -> Any: ...

    def set_prompt(self, prompt: SoftPrompt) -> None: ...

    def requires_grad_(self, requires_grad: bool = True) -> Any: ...


class Prompt(Config):
    """Parameters of every prompt.

    start: where its vectors begin. vocabulary: as the embeddings of tokens drawn without replacement (Lester et al. 2021,
    section 3.2), which was better than uniform but in the largest of their models; uniform: from -0.5 to 0.5.
    """

    length: int = Field(20, gt=0, description="vectors in front of every text")
    start: Literal["vocabulary", "uniform"] = Field("vocabulary", description="what they are before the first step")
    seed: int = Field(0, ge=0, description="of the first values")

    def initial_vectors(self, embedding_VD: Tensor) -> Tensor:
        """vectors_PD before the first step. Of a vocabulary that is smaller than the prompt, tokens come again."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, 0]))
        V, D = embedding_VD.shape
        if self.start == "uniform":
            values = draw.uniform(-0.5, 0.5, (self.length, D)).astype(np.float32)
            return torch.from_numpy(values).to(embedding_VD.device)
        passes = -(-self.length // V)
        ids_P = np.concatenate([draw.permutation(V) for _ in range(passes)])[: self.length]
        return embedding_VD.detach()[torch.from_numpy(ids_P).to(embedding_VD.device)].clone()

    @abstractmethod
    def build(self, embedding_VD: Tensor) -> SoftPrompt:
        """The prompt before the first step, of a model with these embeddings."""


def put_prompt(model: PromptableModel, method: Any) -> None:
    """Have the model begin every text with a prompt made by a method of the room, which alone is trained until `merge`; the
    method `none` changes nothing. Raises ConfigError for a model that cannot carry one, or carries one already."""
    if not isinstance(method, Prompt):
        return
    prompt = method.build(model.embedding.weight)
    model.requires_grad_(False)
    model.set_prompt(prompt)


def check_accepts_prompt(there: SoftPrompt | None, asks_for_ids: bool) -> None:
    """Raises ConfigError for a model that carries a prompt already, or that has embeddings which ask for ids."""
    if there is not None:
        raise ConfigError(f"soft_prompt: the model has one of {len(there)} vectors already: set it to none")
    if asks_for_ids:
        raise ConfigError("soft_prompt: the model has embeddings of ids, which a prompt has none of: set it to none")


def apply_prompt(read: PromptTensors, x_BTD: Tensor, lengths_B: Tensor | None, first: bool) -> Tensor:
    """Embedded tokens that follow so many of their rows (None: none), moved by the prompt's offsets; where they are the first
    of a pass that reads the prompt, behind its vectors."""
    vectors_PD, offsets_SD = read
    if offsets_SD is not None:
        places_1T = torch.arange(x_BTD.shape[1], device=x_BTD.device)[None]
        x_BTD = add_offsets(x_BTD, offsets_SD, places_1T if lengths_B is None else lengths_B[:, None] + places_1T)
    return torch.cat((vectors_PD.to(x_BTD.dtype).expand(len(x_BTD), -1, -1), x_BTD), 1) if first else x_BTD


def add_offsets(x_BTD: Tensor, offsets_SD: Tensor, places_BT: Tensor) -> Tensor:
    """Embedded tokens, those at the first S places of their texts moved by the offset of that place. places_BT may be (1, T),
    where all rows' are the same."""
    S = len(offsets_SD)
    moved_BTD = offsets_SD[places_BT.clamp(max=S - 1)].masked_fill((places_BT >= S)[..., None], 0.0)
    return x_BTD + moved_BTD.to(x_BTD.dtype)
