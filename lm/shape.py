"""The numbers of a decoder from which its parts are built.

Letters, here and in the rooms of parts: B batch, T time, D width, H query heads, K key/value heads, E head width, V vocabulary.
"""

from pydantic import Field, model_validator

from lm.config import Config
from lm.rope import Scaling

# Of a shape whose tokens see both ways, to whoever would write with it token after token
MASKED = "the model is one of masked diffusion, not causal: only lm/unmasking.py writes with it"


class Shape(Config):
    """The shape of a decoder, whatever parts it is made of."""

    vocab_size: int = Field(0, ge=0, description="0: as many as the tokenizer has")
    width: int = Field(160, gt=0)
    layers: int = Field(6, gt=0)
    heads: int = Field(5, gt=0)
    kv_heads: int = Field(1, gt=0, description="heads must be a multiple of it")
    head_width: int = Field(0, ge=0, description="even; 0: width / heads")
    ffn_width: int = Field(432, gt=0)
    context: int = Field(256, gt=1, description="longest sequence in tokens")
    rope_theta: float = Field(10_000.0, gt=0)
    rope_scaling: Scaling | None = None
    norm_eps: float = Field(1e-6, gt=0)
    qk_norm: bool = True
    qkv_bias: bool = Field(False, description="of query, key and value, as in Qwen 2")
    tied: bool = Field(True, description="the output head is the embedding")
    causal: bool = Field(
        True,
        description="false: a token sees those behind it, too, and the embedding has a last row for masked ones; for "
        "pretrain.objective masked_diffusion",
    )

    @model_validator(mode="after")
    def _divides(self) -> "Shape":
        if self.heads % self.kv_heads:
            raise ValueError("heads must be a multiple of kv_heads")
        if self.head_width % 2 or (not self.head_width and (self.width % self.heads or self.width // self.heads % 2)):
            raise ValueError("width must be a multiple of heads with an even quotient, or head_width given, and even")
        return self

    def rows(self, tokens: int) -> int:
        """Rows of the embedding where a tokenizer has so many tokens: one more for the mask, where there is one."""
        return tokens + (not self.causal)

    @property
    def tokens(self) -> int:
        """Rows of the embedding that are a tokenizer's, or padding."""
        return self.vocab_size - (not self.causal)

    @property
    def mask_id(self) -> int:
        """What stands for a masked token, where the shape is not causal: the last row of the embedding. No text has it."""
        return self.vocab_size - 1

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.head_width or self.width // self.heads


# What is said of every shape, its default or not
SAID = Shape.model_fields.keys() - {"causal"}
