"""What a run is told of memory and speed is of all that is trained, whatever an optimizer holds back for a step."""

from functools import partial
from pathlib import Path

import pytest

from lm.optimizers import DropMuon
from lm.optimizers.drop_muon import cut_at
from lm.training.flops import flops_per_token
from lm.training.memory import saved_activation_bytes
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder, batches, fit, recipe


def test_memory_is_measured_with_every_layer_whatever_the_first_step_holds_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (saved_activation_bytes(model := toy_model(seed=1), batches(model)(0), rows) for rows in (1, 2))
    room = int((one + 1.5 * (two - one) + 100 + 20 * toy_model().num_parameters()) / 0.6)  # two rows and a half
    monkeypatch.setattr("lm.training.memory.memory_bytes", lambda device: room)
    cuts = {seed: cut_at(0, 2, 0.0, seed) for seed in range(4)}
    assert set(cuts.values()) == {1, 2}
    said = {}
    for seed in cuts:
        fit(recipe(optimizer=partial(DropMuon, whole=0.0, seed=seed)), log := Recorder(tmp_path / str(seed)), steps=1)
        said[seed] = log.execution["positions"]
    assert set(said.values()) == {"40 at once"}


@pytest.mark.parametrize("seed", range(3))
def test_flop_are_those_of_every_layer_whatever_a_step_holds_back(seed: int, tmp_path: Path) -> None:
    fit(recipe(optimizer=partial(DropMuon, whole=0.0, seed=seed)), log := Recorder(tmp_path), steps=2)
    each = log.facts["flops_per_second"] / log.facts["tokens_per_second"]
    assert each == pytest.approx(flops_per_token(toy_model(), 16))
