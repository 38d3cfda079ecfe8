"""Bits under a budget: the choice is the best of all on the hull, keeps the budget, and is measured on the model as it was."""

from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.config import ConfigError
from lm.embeddings import Value
from lm.linears.base import roles_of
from lm.quantized.counts import Counts
from tasks.core.log import Log
from tasks.quantize.grid import round_by_group
from tasks.quantize.methods import Awq, Gptq, Int8, Rtn, TritPlanes
from tasks.quantize.stage import quantize
from tasks.quantize.widths import Budget, Same
from tasks.quantize.widths.budget import chosen, divergence, upgrades
from tests.lm.models import toy_model
from tests.quantize.test_stage import config, read_back, run, source


def quiet(*told: object) -> None:
    """Say nothing of the progress."""


def batches() -> list:
    ids = torch.randint(5, 261, (4, 32), generator=torch.Generator().manual_seed(0))
    return [(ids, torch.ones_like(ids, dtype=torch.bool))]


def test_a_choice_that_a_mixture_of_others_beats_is_left_out() -> None:
    # from 10 nats at 2 bytes: 6 at 4 saves 2 a byte; 5.5 at 6 saves 1.1; 1 at 8 saves 1.5: the one in between is above the line
    assert upgrades([10, 6, 5.5, 1], [2, 4, 6, 8]) == [(2.0, 1), (1.25, 3)]
    assert upgrades([1, 2, 3], [2, 4, 6]) == []  # more bytes for more nats


@settings(deadline=None, max_examples=60, derandomize=True)
@given(data=st.data(), names=st.integers(1, 4), share=st.floats(0, 1))
def test_no_other_choice_within_the_bytes_spent_loses_less(data: st.DataObject, names: int, share: float) -> None:
    nats = {
        str(n): sorted(data.draw(st.lists(st.integers(0, 50), min_size=3, max_size=3)), reverse=True)
        for n in range(names)
    }
    sizes = {str(n): [2 * (n + 1), 3 * (n + 1), 5 * (n + 1)] for n in range(names)}
    least, most = (sum(s[place] for s in sizes.values()) for place in (0, 2))
    budget = int(least + share * (most - least))
    taken = chosen(nats, sizes, budget)
    spent = sum(sizes[name][place] for name, place in taken.items())
    lost = sum(nats[name][place] for name, place in taken.items())
    assert spent <= budget
    for other in product(range(3), repeat=names):
        if sum(sizes[str(n)][place] for n, place in enumerate(other)) <= spent:
            assert lost <= sum(nats[str(n)][place] for n, place in enumerate(other))


@pytest.mark.parametrize("method", [Rtn(group=16), Gptq(group=16), Awq(group=16)], ids=lambda method: method.name)
@pytest.mark.parametrize("allowed", [4.5, 5.3, 7.0])
def test_the_budget_is_kept_and_nearly_spent(method: object, allowed: float, tmp_path: Path) -> None:
    model = toy_model(width=64, ffn_width=128)
    config_ = config(method, tmp_path, width=Budget(bits_per_weight=allowed))
    bits = config_.width.choose_bits(model, method, batches(), quiet)
    blocks = {n for n, w in model.named_parameters() if n.startswith("blocks.") and w.ndim == 2}
    assert set(bits) == blocks and len(set(bits.values())) > 1
    with torch.no_grad():
        packed = quantize(model, config_, bits, {}, batches(), Log())
    stored = sum(8 * packed[name].num_bytes for name in blocks) / sum(
        w.numel() for n, w in model.named_parameters() if n in blocks
    )
    assert allowed - 0.8 < stored <= allowed
    for name in blocks:
        assert isinstance(packed[name], Counts) and packed[name].bits == bits[name]


@pytest.mark.parametrize("allowed", [5.0, 6.0])
def test_the_budget_counts_what_is_not_chosen_for_and_leaves_tables_alone(allowed: float, tmp_path: Path) -> None:
    """Matrices that were trained in few bits keep theirs, and the others make up for them; tables have a method of their own."""
    model = toy_model(width=64, ffn_width=128, embeddings=[Value()])
    trained = {
        name: round_by_group(weight.detach(), 4, 16, True)
        for name, weight in model.named_parameters()
        if name.startswith("blocks.0.ffn.")
    }
    config_ = config(Rtn(group=16), tmp_path, width=Budget(bits_per_weight=allowed))
    bits = config_.width.choose_bits(model, config_.method, batches(), quiet, trained)
    packed = quantize(model, config_, bits, trained, batches(), Log())
    blocks = {name for name, role in roles_of(model).items() if name.startswith("blocks.") and role == "matrix"}
    assert set(bits) == blocks - set(trained)
    total = sum(packed[name].shape[0] * packed[name].shape[1] for name in blocks)
    assert allowed - 0.8 < sum(8 * packed[name].num_bytes for name in blocks) / total <= allowed
    assert all(packed[name] is trained[name] for name in trained)


def test_what_was_trained_in_few_bits_may_be_more_than_the_budget() -> None:
    model = toy_model()
    trained = {
        name: round_by_group(weight.detach(), 8, 16, True)
        for name, weight in model.named_parameters()
        if name.startswith("blocks.") and weight.ndim == 2
    }
    with pytest.raises(
        ConfigError, match=r"4\.0 is below the 9\.000 .* beside matrices that were trained in few bits: allow more"
    ):
        Budget(bits_per_weight=4).choose_bits(model, Rtn(group=16), batches(), quiet, trained)


@torch.no_grad()
def test_the_model_is_left_as_it_was_and_one_that_predicts_the_same_diverges_by_nothing() -> None:
    model = toy_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    hidden = [model.hidden(ids)[mask] for ids, mask in batches()]
    Budget(bits_per_weight=6).choose_bits(model, Rtn(group=16), batches(), quiet)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert divergence(model, hidden, batches()) == 0
    model.get_parameter("blocks.0.ffn.up.weight").mul_(1.5)
    ids, _ = batches()[0]
    now = model(ids).log_softmax(2)
    model.load_state_dict(before)
    was = model(ids).log_softmax(2)
    expected = (was.exp() * (was - now)).sum(2).mean()
    model.get_parameter("blocks.0.ffn.up.weight").mul_(1.5)
    assert divergence(model, hidden, batches()) == pytest.approx(expected.item(), rel=1e-3)


def test_a_matrix_that_the_predictions_hang_on_gets_more_bits() -> None:
    """The queries of the first block are all but zero: what they become is not seen."""
    model = toy_model(width=64, ffn_width=128)
    with torch.no_grad():
        model.get_parameter("blocks.0.attention.query.weight").mul_(1e-6)
        if hasattr(model.blocks[0].attention, "query_norm"):
            model.blocks[0].attention.query_norm.weight.mul_(1e-6)
        bits = Budget(bits_per_weight=5).choose_bits(model, Rtn(group=16), batches(), quiet)
    assert bits["blocks.0.attention.query.weight"] == 2 and max(bits.values()) >= 4


def test_the_stage_writes_what_was_chosen_and_reads_it_back(tmp_path: Path) -> None:
    source(tmp_path)
    given_ = config(Rtn(group=16), tmp_path, width=Budget(bits_per_weight=5))
    metrics = run(given_, tmp_path, Log())
    again = read_back(tmp_path)
    assert metrics["calibration_tokens"] > 0 and metrics["entropy_bytes"] < metrics["size_bytes"]
    same = run(given_.model_copy(update={"width": Same()}), tmp_path, Log())
    assert same["calibration_tokens"] == 0
    assert any(not torch.equal(weight, read_back(tmp_path)[name]) for name, weight in again.items())


@pytest.mark.parametrize("method", [Int8(), TritPlanes()], ids=lambda method: method.name)
def test_a_method_without_bits_is_refused(method: object) -> None:
    with pytest.raises(ConfigError, match=r"quantize\.width: budget chooses bits, which .* has not"):
        Budget().check(method)


def test_a_budget_below_the_fewest_bits_is_refused() -> None:
    model = toy_model()
    with pytest.raises(
        ConfigError, match=r"bits_per_weight: 3\.0 is below the 4\.\d+ that 2 bits take .* every 16 weights"
    ):
        Budget(bits_per_weight=3).choose_bits(model, Rtn(group=16), batches(), quiet)
    with pytest.raises(ConfigError, match="nothing to measure by"):
        Budget().choose_bits(model, Rtn(group=16), [], quiet)


@pytest.mark.parametrize("of", [[4, 2], [4, 4]])
def test_choices_come_once_and_rise(of: list[int]) -> None:
    with pytest.raises(ValueError, match="the fewest first"):
        Budget(of=of)
