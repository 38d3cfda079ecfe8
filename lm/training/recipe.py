"""The parameters that every training stage has."""

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from lm import averages, linears, optimizers, precisions, schedules
from lm.config import Config, choice
from lm.linears.base import LinearMethod
from lm.optimizers.base import Keeping
from lm.optimizers.states import States
from lm.schedules.feedback import Feedback
from lm.training.fast_forward import FastForward
from lm.training.lookahead import Lookahead


class Recipe(Config):
    """How weights move, whatever the loss.

    has_level: whether a loss that is lower than another of the run tells that the model is better.
    """

    has_level: ClassVar[bool] = True

    optimizer: choice(optimizers)
    schedule: choice(schedules)
    average: choice(averages)
    optimizer_states: States = States()
    linear: choice(linears) = linears.Dense()
    rounding: choice(precisions) = precisions.Unrounded()
    clip: float = Field(1.0, gt=0, description="gradient norm")
    fast_forward: FastForward = FastForward()
    lookahead: Lookahead = Lookahead()
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of products; weights, sums and optimizer stay fp32. auto: bf16 on a GPU, fp32 on a CPU"
    )
    stream: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of the residual stream, if products are bf16; bf16 keeps 8 bits of a sum, saves 5% of a step (predicted)",
    )
    recompute: Literal["auto", "none", "whole", "selective"] = Field(
        "auto",
        description="what of a block's activations the backward makes anew; auto: all, where memory holds no row otherwise; "
        "selective: all but what products made",
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile; auto: on a CPU, where the run is long enough"
    )
    deterministic: bool = Field(
        True,
        description="the same inputs give the same bits; off: no two runs need to, nor one that was killed and went on. It "
        "rules out cuDNN's attention: 4.1 ms where that takes 2.5 on an H200, some 7% of a step of 110 million weights",
    )
    shards: int = Field(
        1,
        gt=0,
        description="equal parts of a step, a power of two; up to as many ranks give the same bits as one process",
    )
    skip_sigmas: float = Field(
        0.0,
        ge=0,
        description="skip a step whose loss or gradient norm is that far above the last 128; 0: never; OLMo-core: 6",
    )
    stop_factor: float = Field(
        0.0, ge=0, description="give up when 32 losses average that many times the first 32; 0: never"
    )

    @property
    def optimizer_method(self) -> Any:
        """The optimizer's method, whose state is kept as the recipe says."""
        kept = self.optimizer_states.format != "fp32"
        return Keeping(self.optimizer, self.optimizer_states) if kept else self.optimizer

    @property
    def linear_method(self) -> LinearMethod:
        """How the matrices of blocks are held: by `linear`, or dense with products that `rounding` rounds."""
        held: LinearMethod = self.linear if self.rounding.name == "none" else self.rounding
        return held

    @property
    def compiling(self) -> Literal["auto", "on", "off"]:
        """`compile`; off where blocks cannot be compiled."""
        return "off" if self.recompute == "selective" or self.linear_method.uncompiled() else self.compile

    @property
    def rows_apart(self) -> str:
        """What a stage makes of a row as it is by itself, in words; empty: its loss is a sum over tokens, whichever rows have
        them. A stage overrides it where it compares rows, takes a row's probability or score as such, or has rows written by
        the model while it trains."""
        return ""

    @property
    def older_weights(self) -> int:
        """Copies of what training changes that a stage keeps in host memory, to sample by them."""
        return 0

    @property
    def has_trials(self) -> bool:
        """Whether some steps are trials of rates, which are taken back."""
        return isinstance(self.schedule, Feedback) and self.schedule.has_trials

    @field_validator("shards")
    @classmethod
    def _power_of_two(cls, shards: int) -> int:
        if shards & (shards - 1):
            raise ValueError("must be a power of two")
        return shards

    @model_validator(mode="after")
    def _rounds_dense_matrices(self) -> "Recipe":
        if self.rounding.name != "none" and self.linear.name != "dense":
            raise ValueError(
                f"rounding: {self.rounding.name} rounds the products of dense matrices: set linear to {{name: dense}}"
            )
        return self

    @model_validator(mode="after")
    def _rows_are_read_alone(self) -> "Recipe":
        if self.linear_method.spans_rows and self.rows_apart:
            raise ValueError(
                f"rounding: {self.rounding.name} has scales that span rows, by which what a row gives depends on the rows "
                f"beside it, and {self.rows_apart}: set rounding to {{name: mus}} or {{name: none}}"
            )
        return self

    @model_validator(mode="after")
    def _movements_go_on(self) -> "Recipe":
        if type(self.linear).clears is not LinearMethod.clears and self.optimizer_states.format != "fp32":
            raise ValueError(
                f"linear: {self.linear.name} clears moments, which must be fp32: set optimizer_states.format to fp32"
            )
        if type(self.linear).clears is not LinearMethod.clears and (self.fast_forward.every or self.lookahead.share):
            raise ValueError(
                f"linear: {self.linear.name} begins anew, where movements of before mean nothing: set fast_forward.every and "
                "lookahead.share to 0"
            )
        return self

    @model_validator(mode="after")
    def _uncompiled(self) -> "Recipe":
        if self.recompute == "selective" and self.compile == "on":
            raise ValueError(
                "recompute: selective knows products one by one, which compiled blocks have not: set compile: off"
            )
        if self.linear_method.uncompiled() and self.compile == "on":
            raise ValueError(
                f"linear: {self.linear.name} gives each matrix a size of its own, and each would be compiled by itself: set "
                "compile: off"
            )
        return self

    @model_validator(mode="after")
    def _trials_leave_nothing(self) -> "Recipe":
        if not self.has_trials:
            return self
        others = {
            "average: {name: last}": type(self.average) is not averages.Last,
            "linear: {name: dense}": type(self.linear) is not linears.Dense,
            "fast_forward.every: 0": self.fast_forward.every > 0,
            "lookahead.share: 0": self.lookahead.share > 0,
            "skip_sigmas: 0": self.skip_sigmas > 0,
        }
        if wrong := [name for name, is_wrong in others.items() if is_wrong]:
            raise ValueError(
                f"schedule: {self.schedule.name} takes trials back, and with them only weights: set {', '.join(wrong)}"
            )
        return self
