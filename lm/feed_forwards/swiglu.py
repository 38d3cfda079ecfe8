"""SwiGLU: a gated unit (Shazeer 2020, arXiv:2002.05202)."""

from typing import Any, Literal

from torch import Tensor, nn

from kernels.projections import projections
from kernels.swiglu import swiglu
from lm.parts import Part
from lm.shape import Shape


class Gated(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate = nn.Linear(shape.width, shape.ffn_width, bias=False)
        self.up = nn.Linear(shape.width, shape.ffn_width, bias=False)
        self.down = nn.Linear(shape.ffn_width, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = projections(x, (self.gate, self.up))
        return self.down(swiglu(gate, up))


class SwiGLU(Part):
    name: Literal["swiglu"] = "swiglu"
    into_stream = ("down",)
    hugging_face = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}

    def build(self, shape: Shape) -> Gated:
        return Gated(shape)

    def hugging_face_config(self, shape: Shape) -> dict[str, Any]:
        return {"hidden_act": "silu"}
