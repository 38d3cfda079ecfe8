"""The stage on a small model: what it makes and says, that every parameter counts, and what it refuses."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from lm.calibration import Calibration, calibration_batches
from lm.checkpoint import load_model
from lm.config import ConfigError
from lm.cutting.units import Magnitude as Size
from lm.hugging_face.export import save_hf
from lm.model_folder import read_model
from lm.problems import Arithmetic
from tasks.about.sections import Sections
from tasks.core.log import Log
from tasks.core.tables import read_table
from tasks.prune.contracts import contracts
from tasks.prune.layers import Influence
from tasks.prune.nats import nats_of
from tasks.prune.needs import needs, shape
from tasks.prune.stage import PruneConfig, run
from tasks.prune.weights import Magnitude, SparseGpt, Wanda
from tests.neighbours import assert_all_differ
from tests.project import TINY, digest
from tests.quantize.test_stage import plan, source


def config(**changes: Any) -> PruneConfig:
    few = Calibration(problems=8, sequences=4, max_new_tokens=6)
    given = {"model": "distill", "problems": Arithmetic(digits=1), "calibration": few, "seed": 0}
    return PruneConfig(**{**given, **changes})


def pruned(data: Path, given: PruneConfig) -> dict[str, float]:
    source(data)
    (data / "prune").mkdir()
    return run(given, data, Log())


def test_what_it_says_is_so(tmp_path: Path) -> None:
    given = config(layers=1, ffn_width=64, weights=Magnitude(share=0.25), sparsities=True)
    told = pruned(tmp_path, given)
    before, tokenizer = load_model(tmp_path / "distill")
    after, _ = load_model(tmp_path / "prune")
    assert (after.config.layers, after.config.ffn_width, after.config.width) == (1, 64, 64)
    prompts = [e.prompt for e in given.problems.examples("sft")]
    batches = calibration_batches(before, tokenizer, prompts, plan(tmp_path), given.calibration, 0, "x")
    assert told["nats_before"] == pytest.approx(nats_of(before, batches)) != told["nats"]
    assert told["nats"] == pytest.approx(nats_of(after, batches))
    assert told["parameter_fraction"] == after.num_parameters() / before.num_parameters()
    matrices = [weight for name, weight in after.named_parameters() if name.startswith("blocks.") and weight.ndim == 2]
    assert sum(int((weight == 0).sum()) for weight in matrices) == sum(round(0.25 * w.numel()) for w in matrices)
    rows = read_table(tmp_path / "prune/sparsities.parquet").to_pylist()
    assert [row["share"] for row in rows] == [n / 10 for n in range(10)]
    good = [row["share"] for row in rows if row["nats"] <= 1.01 * rows[0]["nats"]]
    assert told["essential_share"] == max(good) and rows[0]["nats"] == told["nats_before"]


def test_nats_by_hand(tmp_path: Path) -> None:
    source(tmp_path)
    model, _ = load_model(tmp_path / "distill")
    ids = torch.tensor([[7, 8, 9, 10], [11, 12, 0, 0]])
    real = torch.tensor([[True] * 4, [True, True, False, False]])
    with torch.no_grad():
        logp = model(ids[:, :-1]).log_softmax(-1)
    expected = -(logp[0, 0, 8] + logp[0, 1, 9] + logp[0, 2, 10] + logp[1, 0, 12]) / 4
    assert nats_of(model, [(ids, real)]) == pytest.approx(expected.item(), rel=1e-5)


def test_it_is_a_model_that_others_read(tmp_path: Path) -> None:
    """By our reader, exported to Hugging Face's format and back, with as many heads as stay."""
    pruned(tmp_path, config(heads=2, ffn_width=48))
    model, tokenizer = read_model(tmp_path / "prune")
    save_hf(model, tokenizer, tmp_path / "out", torch.float32)
    other, _ = read_model(tmp_path / "out")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(other(ids), model(ids))


CHANGES: list[dict[str, Any]] = [
    {"layers": 1},
    {"layers": 1, "layer_score": Influence(), "ffn_width": 100},
    {"heads": 2},
    {"ffn_width": 64},
    {"ffn_width": 64, "unit_score": Size()},
    {"weights": Magnitude()},
    {"weights": Magnitude(share=0.3)},
    {"weights": Magnitude(of=4)},
    {"weights": Wanda()},
    {"weights": SparseGpt()},
    {"weights": SparseGpt(damping=0.1)},
    {"weights": Wanda(), "seed": 1},
    {"weights": Wanda(), "calibration": Calibration(problems=8, sequences=2, max_new_tokens=6)},
    {"weights": Wanda(), "calibration": Calibration(problems=4, sequences=4, max_new_tokens=6)},
    {"weights": Wanda(), "calibration": Calibration(problems=8, sequences=4, max_new_tokens=5)},
]


def test_every_parameter_changes_the_model(tmp_path: Path) -> None:
    folders = count()

    def made(changes: dict[str, Any]) -> str:
        data = tmp_path / str(next(folders))
        pruned(data, config(**(changes or {"sparsities": True})))
        return digest(data / "prune")

    assert_all_differ(made, [[changes] for changes in CHANGES])


def test_the_same_bytes_on_every_run_and_the_model_is_left_alone(tmp_path: Path) -> None:
    given = config(heads=2, weights=SparseGpt(), sparsities=True)
    for name in ("a", "b"):
        pruned(tmp_path / name, given)
    assert digest(tmp_path / "a/prune") == digest(tmp_path / "b/prune")
    source(tmp_path / "c")
    assert digest(tmp_path / "a/distill") == digest(tmp_path / "c/distill")


def test_what_is_more_than_there_is_or_nothing_is_refused(tmp_path: Path) -> None:
    for name in ("layers", "heads", "ffn_width"):
        with pytest.raises(ConfigError, match=rf"prune.{name}: 999 is more than the model's"):
            pruned(tmp_path / name, config(**{name: 999}))
    with pytest.raises(ValidationError, match="nothing is to go"):
        config()
    with pytest.raises(ValidationError, match="calibration needs problems or sequences"):
        config(layers=1, calibration=Calibration(problems=0, sequences=0))


def sections(**changes: Any) -> Sections:
    return Sections({**TINY, "prune": {**TINY["prune"], **changes}})


def test_what_is_known_before_it_runs(tmp_path: Path) -> None:
    start = sections().start_shape("prune")
    assert (
        shape(sections(ffn_width=8)).ffn_width == 8 and needs(sections(ffn_width=8)).output < needs(sections()).output
    )
    assert list(contracts(sections())) == []
    found = {finding.where for finding in contracts(sections(layers=start.layers + 1, ffn_width=9999))}
    assert found == {"params.yaml: prune.layers", "params.yaml: prune.ffn_width"}
