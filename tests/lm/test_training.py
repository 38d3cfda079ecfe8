"""The loop: resumed runs equal whole ones to the bit, and batches find their place."""

from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm import averages, optimizers
from lm.averages import Last
from lm.config import ConfigError, methods_of
from lm.optimizers import AdamW
from lm.schedules import Cosine
from lm.training.batch import Batch
from lm.training.data.conversations import Conversation, collate, places, sample_indices, token_logps
from lm.training.data.plan import Plan
from lm.training.flops import flops_per_token
from lm.training.loop import train
from lm.training.memory import saved_activation_bytes
from lm.training.recipe import Recipe
from tasks.core.log import Log, Stopped
from tests.lm.models import toy_model


class Recorder(Log):
    """A log that keeps its points and asks to stop after a number of steps."""

    def __init__(self, scratch: Path, stop_after: int | None = None) -> None:
        self.scratch, self.stop_after, self.points = scratch, stop_after, {}

    def fact(self, **values: float) -> None:
        self.facts = values

    def computed(self, how: dict[str, str]) -> None:
        self.execution = how

    def __call__(self, step: int, **values: float) -> None:
        self.points[step] = values
        self.stopping = self.stop_after is not None and len(self.points) >= self.stop_after

    def rewind(self, step: int) -> None:
        self.points = {s: v for s, v in self.points.items() if s < step}


def recipe(optimizer=AdamW, average=Last, **more) -> Recipe:
    return Recipe(optimizer=optimizer(), schedule=Cosine(), average=average(), clip=1.0, **more)


def batches(model, spike_at: int = -1, spike: float = 100):
    """A batch of four random sequences a step; one step may have a loss so many times as high."""

    def batch_at(step: int) -> Batch:
        ids = torch.randint(0, 261, (4, 17), generator=torch.Generator().manual_seed(step))

        def loss(rows: slice):
            every = torch.arange((rows.stop - rows.start) * 16)
            return -token_logps(model, ids[rows], every).sum() / 64 * (spike if step == spike_at else 1), {
                "rows": rows.stop - rows.start
            }

        return Batch(4, 16, 64, loss)

    return batch_at


def fit(how: Recipe, log: Log, steps: int = 9, layers: int = 2, **more):
    model = toy_model(seed=1, layers=layers)
    train(model, how, steps, batches(model, **more), log)
    return model.state_dict()


RECIPES = [recipe(optimizer=m) for m in methods_of(optimizers)] + [recipe(average=m) for m in methods_of(averages)]


@pytest.mark.parametrize("how", RECIPES, ids=lambda how: f"{how.optimizer.name}-{how.average.name}")
def test_stopped_and_resumed_equals_whole(how: Recipe, tmp_path: Path) -> None:
    whole_log = Recorder(tmp_path / "whole")
    whole = fit(how, whole_log, layers=1)
    points: dict = {}
    for stop_after in (2, 3, None):  # stops after 2 steps, after 3 more, then ends
        log = Recorder(tmp_path / "cut", stop_after)
        if stop_after is None:
            resumed = fit(how, log, layers=1)
        else:
            with pytest.raises(Stopped):
                fit(how, log, layers=1)
        points |= log.points
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert points == whole_log.points


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path) -> None:
    model = toy_model()
    broken = Batch(1, 1, 1, lambda rows: (model.embedding.weight.sum() * float("nan"), {}))
    with pytest.raises(FloatingPointError, match="step 0"):
        train(model, recipe(), 2, lambda step: broken, Log())


def test_accumulated_gradients_train_as_one_batch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = fit(recipe(), Recorder(tmp_path / "whole"))
    monkeypatch.setenv("TOKENMILL_POSITIONS", "16")  # a row at a time
    log = Recorder(tmp_path / "parts")
    parts = fit(recipe(), log)
    assert all(point["rows"] == 4 for point in log.points.values())
    for name, weight in whole.items():
        # AdamW divides by the gradient's size, so rounding of a tiny gradient may turn a whole step of 1e-3
        assert torch.nn.functional.cosine_similarity(parts[name].flatten(), weight.flatten(), dim=0) > 0.9999


def test_a_memory_too_small_for_a_row_recomputes_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_POSITIONS", "16")
    plain = fit(recipe(), Log())
    monkeypatch.setenv("TOKENMILL_POSITIONS", "0")
    recomputed = fit(recipe(), Log())
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


def test_a_resumed_run_keeps_to_the_parts_of_its_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Odd steps keep twice as much for their backward, so a run that measured anew at one would take parts half as large."""

    def fit_uneven(log: Log):
        model = toy_model(seed=1)

        def batch_at(step: int) -> Batch:
            even = batches(model)(step)

            def loss(rows: slice):
                first, metrics = even.loss(rows)
                return (first + 0.5 * even.loss(rows)[0], metrics) if step % 2 else (first, metrics)

            return Batch(4, 16, 64, loss)

        train(model, recipe(), 9, batch_at, log)
        return model.state_dict()

    kept = saved_activation_bytes(toy_model(seed=1), batches(toy_model(seed=1))(0))
    room = 2.5 * kept / 0.6 + 20 * toy_model().num_parameters() / 0.6  # two rows of an even step, one of an odd
    monkeypatch.setattr("lm.training.memory.memory_bytes", lambda device: room)
    whole = fit_uneven(Recorder(tmp_path / "whole"))
    with pytest.raises(Stopped):
        fit_uneven(Recorder(tmp_path / "cut", 3))
    resumed = fit_uneven(Recorder(tmp_path / "cut"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_decides_sums_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is 4 rows of 16 positions. Memory is named where it divides batches, and nothing of it where it does not."""
    plain = {
        "device": "cpu",
        "products": "float32",
        "compiled": "no",
        "deterministic": "yes",
        "positions": "whole batches",
    }
    fit(recipe(), log := Recorder(tmp_path / "plain"), steps=2)
    assert log.execution == plain
    monkeypatch.setenv("TOKENMILL_POSITIONS", "64")
    fit(recipe(), log := Recorder(tmp_path / "enough"), steps=2)
    assert log.execution == plain
    monkeypatch.setenv("TOKENMILL_POSITIONS", "63")
    fit(recipe(shards=2), log := Recorder(tmp_path / "shards"), steps=2)  # of two rows each
    assert log.execution == plain
    fit(recipe(precision="bf16", deterministic=False), log := Recorder(tmp_path / "few"), steps=2)
    few = {
        **plain,
        "products": "bfloat16",
        "deterministic": "no",
        "positions": "63 at once",
        "TOKENMILL_POSITIONS": "63",
    }
    assert log.execution == few
    monkeypatch.delenv("TOKENMILL_POSITIONS")
    one, two = (saved_activation_bytes(model := toy_model(seed=1), batches(model)(0), rows) for rows in (1, 2))
    # for two and a half rows, and 100 bytes so that rounding takes none away
    room = int((one + 1.5 * (two - one) + 100 + 20 * toy_model().num_parameters()) / 0.6)
    for module in ("memory", "execution"):
        monkeypatch.setattr(f"lm.training.{module}.memory_bytes", lambda device: room)
    fit(recipe(), log := Recorder(tmp_path / "memory"), steps=2)
    assert log.execution["memory"] == f"{room} bytes" and log.execution["positions"] == "40 at once"


def test_the_stream_is_rounded_where_the_recipe_says_so_and_products_are_bf16(tmp_path: Path) -> None:
    losses = {}
    for precision, stream in (("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "fp32"), ("bf16", "bf16")):
        fit(recipe(precision=precision, stream=stream), log := Recorder(tmp_path / precision / stream), steps=2)
        losses[precision, stream] = [log.points[step]["loss"] for step in range(2)]
    assert losses["fp32", "bf16"] == losses["fp32", "fp32"] and losses["bf16", "bf16"] != losses["bf16", "fp32"]
    # 8 bits of mantissa
    assert losses["bf16", "bf16"] == pytest.approx(losses["fp32", "fp32"], rel=1e-2)


def test_a_run_that_goes_on_says_how_it_has_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENMILL_POSITIONS", "32")
    with pytest.raises(Stopped):
        fit(recipe(), Recorder(tmp_path, 3), steps=6)
    monkeypatch.setenv("TOKENMILL_POSITIONS", "64")
    fit(recipe(), log := Recorder(tmp_path), steps=6)
    assert log.execution["positions"] == "32 at once"


def test_a_spike_is_skipped_and_said(tmp_path: Path) -> None:
    log = Recorder(tmp_path)
    fit(recipe(skip_sigmas=6.0), log, steps=90, layers=1, spike_at=80)
    assert [step for step, point in log.points.items() if "skipped" in point] == [80]


def test_a_spike_is_skipped_by_a_run_that_was_stopped_before_it(tmp_path: Path) -> None:
    whole = fit(recipe(skip_sigmas=6.0), Recorder(tmp_path / "whole"), steps=90, layers=1, spike_at=80)
    with pytest.raises(Stopped):
        fit(recipe(skip_sigmas=6.0), Recorder(tmp_path / "cut", 75), steps=90, layers=1, spike_at=80)
    resumed = fit(recipe(skip_sigmas=6.0), Recorder(tmp_path / "cut"), steps=90, layers=1, spike_at=80)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_of_a_skipped_step_nothing_is_learned(tmp_path: Path) -> None:
    """Its gradient clipped has one size, so the other way round is what would show."""
    up, down = (
        fit(recipe(skip_sigmas=6.0), Recorder(tmp_path / str(spike)), steps=90, layers=1, spike_at=80, spike=spike)
        for spike in (100, -100)
    )
    assert all(torch.equal(up[name], down[name]) for name in up)


def test_each_step_has_the_rate_of_its_place(tmp_path: Path) -> None:
    log = Recorder(tmp_path)
    fit(recipe(), log)
    assert [point["learning_rate"] for point in log.points.values()] == [AdamW().lr * Cosine()(n, 9) for n in range(9)]


def test_the_clip_is_that_of_the_recipe(tmp_path: Path) -> None:
    """Gradients of which all are clipped to one length, and some to another: AdamW sees how they lie to each other."""
    norms = [point["gradient_norm"] for point in trained_with(1e9, tmp_path / "none")[1].values()]
    (low, _), (middle, _), (high, _) = (
        trained_with(clip, tmp_path / str(clip)) for clip in (min(norms) / 2, sorted(norms)[4], 2 * max(norms))
    )
    assert differ(low, middle) and differ(middle, high)


def trained_with(clip: float, scratch: Path) -> tuple[dict[str, torch.Tensor], dict]:
    log = Recorder(scratch)
    return fit(recipe().model_copy(update={"clip": clip}), log), log.points


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


def test_divergence_stops_the_run(tmp_path: Path) -> None:
    rising = Recorder(tmp_path)
    model = toy_model()

    def batch_at(step: int) -> Batch:
        return Batch(1, 1, 1, lambda rows: (model.embedding.weight.sum() * 0 + 1.0 + step, {}))

    with pytest.raises(FloatingPointError, match="the mean loss of 32 steps"):
        train(model, recipe(stop_factor=1.5), 200, batch_at, rising)
    assert len(rising.points) < 100


def test_speed_is_told(tmp_path: Path) -> None:
    log = Recorder(tmp_path)
    fit(recipe(), log)
    assert set(log.facts) == {"tokens_per_second", "flops_per_second"}
    model = toy_model()
    assert log.facts["flops_per_second"] / log.facts["tokens_per_second"] == pytest.approx(flops_per_token(model, 16))


def test_collate_masks_the_completion_alone() -> None:
    ids, mask = collate([Conversation([5, 6], [7, 4]), Conversation([8], [9, 9, 9, 4])], pad_id=1)
    assert ids.tolist() == [[5, 6, 7, 4, 1], [8, 9, 9, 9, 4]]
    assert mask.tolist() == [[0, 1, 1, 0], [1, 1, 1, 1]]


def test_padding_reaches_no_loss() -> None:
    model = toy_model()
    short, long = Conversation([5, 6], [7, 4]), Conversation([8], [9, 9, 9, 4])
    both, mask = collate([short, long], 1)
    alone, only = collate([short], 1)
    with torch.no_grad():
        together, apart = token_logps(model, both, places(mask)), token_logps(model, alone, places(only))
    torch.testing.assert_close(together[:1, :3], apart, rtol=0, atol=1e-5)
    assert together[0].tolist() == [0, pytest.approx(apart[0, 1].item()), pytest.approx(apart[0, 2].item()), 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_where_they_are_asked_for_equal_those_of_all_logits(temperature: float) -> None:
    model, ids = toy_model(seed=3), torch.randint(0, 261, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.rand(3, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    slopes = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    plain = (model(ids[:, :-1]) / temperature).log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0].where(mask, 0)
    mine = token_logps(model, ids, places(mask), temperature)
    torch.testing.assert_close(mine, plain, rtol=1e-5, atol=1e-6)
    grads = (torch.autograd.grad((slopes * logps).sum(), list(model.parameters())) for logps in (mine, plain))
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)  # fp32, sums of some dozens in another order


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 5))
def test_every_pass_chooses_each_member_once(population: int, batch: int, seed: int) -> None:
    picks = [i for step in range(3 * population) for i in sample_indices(step, batch, population, seed)]
    for start in range(0, len(picks) - population + 1, population):
        assert sorted(picks[start : start + population]) == list(range(population))


def plan_of(folder: Path, rows: list[tuple[int, int, int, int]]) -> Plan:
    """A plan of these (step, sequence, offset, length) over the tokens 0 to 99, which are one document."""
    np.save(folder / "tokens.npy", np.arange(100, dtype=np.uint16))
    pq.write_table(pa.table({"start": [0], "length": [100]}), folder / "documents.parquet")
    columns = dict(zip(("step", "sequence", "offset", "length"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns | {"document": [0] * len(rows)}), folder / "plan.parquet")
    return Plan(folder, folder)


def test_plan_gives_the_planned_tokens(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [(0, 0, 10, 3), (0, 0, 50, 2), (0, 1, 90, 5), (1, 0, 0, 9)])
    assert plan.steps == 2 and plan.longest == 9
    assert plan.batch(0).tolist() == [[10, 11, 12, 50, 51], [90, 91, 92, 93, 94]]
    assert plan.batch(1).tolist() == [list(range(9))]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(0, 0, 0, 5), (2, 0, 5, 5)], r"plan.parquet: has nothing for step 1 of 3; make both anew"),
        (
            [(0, 0, 0, 5), (0, 1, 97, 5)],
            r"row 1 asks for tokens 97 to 102 of document 0 of .*documents.parquet, which has 100",
        ),
    ],
)
def test_a_plan_that_lacks_a_part_is_refused(rows: list, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan_of(tmp_path, rows)


FILES = {"plan": "plan.parquet", "tokens": "tokens.npy", "documents": "documents.parquet"}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("torn", [True, False])
def test_a_plan_that_cannot_be_read_names_its_files(file: str, torn: bool, tmp_path: Path) -> None:
    plan_of(tmp_path, [(0, 0, 10, 3)])
    path = tmp_path / FILES[file]
    path.write_bytes(path.read_bytes()[:20]) if torn else path.unlink()
    said = r"plan.parquet over .*tokens.npy and .*documents.parquet: cannot be read: .*make both anew"
    with pytest.raises(ConfigError, match=said):
        Plan(tmp_path, tmp_path)


def test_plan_says_where_documents_begin_among_the_inputs(tmp_path: Path) -> None:
    # sequences of 5 tokens, 4 inputs each: the third document of the second sequence is a target alone
    first = [(0, 0, 10, 3), (0, 0, 50, 2), (0, 1, 90, 3), (0, 1, 20, 1), (0, 1, 30, 1), (0, 2, 0, 5)]
    plan = plan_of(tmp_path, [*first, (1, 0, 0, 1), (1, 0, 7, 8)])
    assert plan.bounds(0).tolist() == [0, 3, 4, 7, 8, 12] and plan.bounds(0).dtype == torch.int64
    assert plan.bounds(1).tolist() == [0, 1, 8]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.sets(st.integers(1, 9)), min_size=1, max_size=4))
def test_two_inputs_are_apart_where_a_range_ends_between_them(cuts: list[set[int]]) -> None:
    rows, document = [], 0
    owners: list[int] = []  # of each input: the number of its range
    for sequence, cut in enumerate(cuts):
        for start, end in pairwise([0, *sorted(cut), 10]):
            rows.append((0, sequence, start, end - start))
            owners += [document] * (min(end, 9) - start)
            document += 1
    with TemporaryDirectory() as folder:
        bounds = plan_of(Path(folder), rows).bounds(0)
    changes = [i for i in range(1, len(owners)) if owners[i] != owners[i - 1]]
    assert bounds.tolist() == [0, *changes, 9 * len(cuts)]
