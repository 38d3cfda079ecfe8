"""Pruning: a smaller or sparser model out of one that is there, without training it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from pydantic import Field, model_validator

from lm import problems
from lm.calibration import Batch, Calibration, calibration_batches
from lm.checkpoint import device, save_model
from lm.config import Config, Seed, choice
from lm.cutting import units as unit_scores
from lm.cutting.cut import top_indices, with_units
from lm.model import Decoder
from lm.model_folder import read_bare
from lm.training.data.plan import Plan
from tasks.core.config import ConfigError, StartModel
from tasks.core.log import Log
from tasks.core.tables import write_table
from tasks.core.tokens import check_tokens
from tasks.prune import layers as layer_scores
from tasks.prune import weights as ways
from tasks.prune.nats import nats_of
from tasks.prune.sparse import essential_sparsity, prune_matrices
from tasks.prune.weights import Whole


class PruneConfig(Config):
    """Whole layers go first, then heads and channels of what is left, then single weights."""

    model: StartModel
    layers: int = Field(0, ge=0, description="that stay; 0: all")
    layer_score: choice(layer_scores) = layer_scores.Shift()
    heads: int = Field(0, ge=0, description="query heads of each layer that stay, a multiple of kv_heads; 0: all")
    ffn_width: int = Field(0, ge=0, description="channels of each feed-forward layer that stay; 0: all")
    unit_score: choice(unit_scores) = unit_scores.Activation()
    weights: choice(ways) = Whole()
    sparsities: bool = Field(
        False,
        description="also tell what the model loses when 10% to 90% of its smallest weights go, and write it down",
    )
    calibration: Calibration = Calibration()
    problems: choice(problems)
    seed: Seed

    @model_validator(mode="after")
    def _asks_for_something(self) -> "PruneConfig":
        if not (self.layers or self.heads or self.ffn_width or self.sparsities) and self.weights == Whole():
            raise ValueError("nothing is to go: set layers, heads, ffn_width, weights or sparsities")
        if not (self.calibration.problems or self.calibration.sequences):
            raise ValueError("calibration needs problems or sequences: what a model loses is told by them")
        return self


def prune(model: Decoder, config: PruneConfig, batches: list[Batch], log: Log) -> Decoder:
    """The model without what is to go. Raises ConfigError for more than there is."""
    shape = model.config
    if config.layers:
        check("layers", config.layers, shape.layers)
        scores = config.layer_score(model, batches, log.progress)
        model = model.select_layers(top_indices(scores, config.layers))
    if config.heads or config.ffn_width:
        check("heads", config.heads or shape.heads, shape.heads)
        check("ffn_width", config.ffn_width or shape.ffn_width, shape.ffn_width)
        model = with_units(model, config.heads, config.ffn_width, config.unit_score, batches, "prune")
    if config.weights != Whole():
        prune_matrices(model, config.weights, batches, log.progress)
    return model


def check(name: str, asked: int, there: int) -> None:
    """Raises ConfigError where more is to stay than is there."""
    if asked > there:
        raise ConfigError(f"prune.{name}: {asked} is more than the model's {there}")


def run(config: PruneConfig, data: Path, log: Log) -> dict[str, float]:
    """data/<model> -> data/prune. nats: the mean negative log-likelihood of the calibration's tokens, before and after."""
    source, target = data / config.model, data / "prune"
    model, tokenizer = read_bare(source)
    model.to(device())
    if config.calibration.sequences:
        check_tokens(f"prune.model: {config.model}", tokenizer, data / "tokenize")
    plan = Plan(data / "curriculum", data / "tokenize")
    prompts = [example.prompt for example in config.problems.examples("sft")]
    batches = calibration_batches(model, tokenizer, prompts, plan, config.calibration, config.seed, "prune.calibration")
    if not batches:
        raise ConfigError(
            "prune.calibration: there is nothing to calibrate with: ask for sequences, or for shorter answers"
        )
    before = {"parameters_before": model.num_parameters(), "nats_before": nats_of(model, batches)}
    told: dict[str, Any] = {}
    if config.sparsities:
        table, told["essential_share"] = essential_sparsity(model, batches, log.progress)
        write_table(target / "sparsities.parquet", pa.Table.from_pylist(table))
    with torch.no_grad():
        model = prune(model, config, batches, log)
    save_model(target, model, tokenizer)
    parameters = model.num_parameters()
    zeros = sum(int((weight == 0).sum()) for weight in model.parameters())
    return {
        **before,
        **told,
        "parameters": parameters,
        "parameter_fraction": parameters / before["parameters_before"],
        "zero_fraction": zeros / parameters,
        "nats": nats_of(model, batches),
        "layers": model.config.layers,
        "heads": model.config.heads,
        "ffn_width": model.config.ffn_width,
    }
