"""Trunks: found by what decided them and by nothing else, whole or not at all, within their limit, and to the bit."""

import multiprocessing
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lm import averages, optimizers, schedules
from lm.averages import Last, Lawa
from lm.config import methods_of
from lm.optimizers import AdamW, ScheduleFree
from lm.schedules import Infinite, Power, Wsd
from lm.training.checkpoint.file import read
from lm.training.checkpoint.snapshot import Snapshot
from lm.training.loop import train
from lm.training.recipe import Recipe
from lm.training.trunks.chain import Chain, Link, branching, milestones
from lm.training.trunks.store import Place, TrunkStore, place_of
from lm.training.trunks.trunks import Trunks
from tests.lm.models import toy_model
from tests.lm.test_training import Recorder, batches

ROOM = 2**30
DECIDED = {"code": "1", "weights": "2"}


class Nothing:
    """The record of a stage that says nothing."""

    def until(self, steps: int) -> dict[str, Tensor]:
        return {}

    def restore(self, found: dict[str, Tensor]) -> None:
        assert not found


def how(schedule=None, optimizer=AdamW, average=None, **more) -> Recipe:
    return Recipe(optimizer=optimizer(), schedule=schedule or Wsd(warmup_fraction=0), average=average or Last(), **more)


def fit(
    folder: Path, recipe: Recipe, steps: int, trunks: bool = True, limit: int = ROOM, unchanged=lambda: True, **differs
) -> tuple[dict[str, Tensor], dict[int, dict[str, float]], dict[str, float]]:
    """(weights, points said, facts) of a run, which has the trunks of the folder or none."""
    model = toy_model(seed=1, layers=1)
    data = batches(model)
    log = Recorder(None)
    store, seen = TrunkStore(folder, limit), differs.pop("seen", lambda step: [step])
    found = Trunks(store, "toy", {**DECIDED, **differs}, recipe, steps, seen, Nothing(), unchanged)
    train(model, recipe, steps, data, log, found if trunks else None)
    return model.state_dict(), log.points, log.facts


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


LINKS = st.lists(
    st.builds(Link, st.sampled_from([0.5, 1.0]), st.sampled_from([0.0, 1.0]), st.sampled_from("ab")), max_size=6
)


@settings(deadline=None)
@given(LINKS, LINKS, st.sampled_from(["1", "2"]))
def test_a_digest_says_all_that_came_before(left: list[Link], right: list[Link], code: str) -> None:
    a, b = Chain({"code": "1"}, left.__getitem__), Chain({"code": code}, right.__getitem__)
    for step in range(min(len(left), len(right)) + 1):
        assert (a[step] == b[step]) == (code == "1" and left[:step] == right[:step])
    assert len({a[step] for step in range(len(left) + 1)}) == len(left) + 1


@settings(deadline=None)
@given(
    st.sampled_from([Wsd, Infinite, Power]),
    st.integers(8, 400),
    st.integers(8, 400),
    st.floats(0, 0.9),
    st.floats(0, 0.9),
)
def test_before_the_decay_neither_total_nor_decay_matters(
    kind, left: int, right: int, early: float, late: float
) -> None:
    a, b = (how(kind(warmup_fraction=0, decay_fraction=decay)) for decay in (early, late))
    shared = min(branching(a, left), branching(b, right))
    assert shared > 0
    assert [a.schedule(s, left) for s in range(shared)] == [b.schedule(s, right) for s in range(shared)]
    if shared < left and branching(a, left) == shared:
        assert a.schedule(shared, left) != b.schedule(shared, 10 * right + 10 * left)


@pytest.mark.parametrize("kind", [schedules.Cosine, schedules.Linear, schedules.OneCycle])
@settings(deadline=None)
@given(st.integers(3, 300), st.integers(1, 300))
def test_the_other_schedules_have_nothing_to_share(kind, steps: int, more: int) -> None:
    """Their first step may be that of another total only where both are rounded to the same, as 12 and 13 steps of one_cycle."""
    assert branching(how(kind()), steps) == 0
    assert [kind()(s, steps) for s in range(steps)] != [kind()(s, 2 * steps + more) for s in range(steps)]


@settings(deadline=None)
@given(st.integers(0, 100_000))
def test_milestones_are_near_whatever_is_asked_for(last: int) -> None:
    found = sorted(milestones(last))
    assert not found if last < 8 else found[0] == 8 and found[-1] == last
    assert all(after <= 1.5 * before for before, after in zip(found, found[1:], strict=False))
    assert len(found) <= 29


METHODS = [how(optimizer=method) for method in methods_of(optimizers)] + [
    how(average=m()) for m in methods_of(averages)
]


@pytest.mark.parametrize("recipe", METHODS, ids=lambda r: f"{r.optimizer.name}-{r.average.name}")
def test_more_steps_go_on_from_a_trunk_to_the_same_bits(recipe: Recipe, tmp_path: Path) -> None:
    fit(tmp_path, recipe, 16)  # of which the last 2 decay: a trunk of 14
    wanted, points, _ = fit(tmp_path, recipe, 26, trunks=False)
    found, later, facts = fit(tmp_path, recipe, 26)
    assert_same(found, wanted)
    # a blended tail begins at 0.74 of a run's own steps, and what is before it is shared: 11, of the three that are kept
    shared = 11 if recipe.average.name == "tail_blend" else 14
    assert facts["steps_from_trunk"] == shared
    assert later == {step: said for step, said in points.items() if step >= shared}


def test_an_average_that_counts_from_the_end_shares_what_it_does_not_count(tmp_path: Path) -> None:
    few = how(average=Lawa(checkpoints=2, every=5))
    fit(tmp_path, few, 20)  # its mean begins after 15 steps
    found, _, facts = fit(tmp_path, few, 40)
    assert facts["steps_from_trunk"] == 11
    assert_same(found, fit(tmp_path, few, 40, trunks=False)[0])


def test_other_decays_share_the_stable_phase(tmp_path: Path) -> None:
    recipes = [how(Wsd(warmup_fraction=0, decay_fraction=decay)) for decay in (0.5, 0.3, 0.1)]
    began = [fit(tmp_path, recipe, 40)[2]["steps_from_trunk"] for recipe in recipes]
    assert began == [0, 21, 29]
    for recipe in recipes:
        assert_same(fit(tmp_path, recipe, 40)[0], fit(tmp_path, recipe, 40, trunks=False)[0])


def test_a_run_without_decay_goes_on_from_its_end(tmp_path: Path) -> None:
    constant = how(Wsd(warmup_fraction=0, decay_fraction=0))
    fit(tmp_path, constant, 20)
    found, _, facts = fit(tmp_path, constant, 30)
    assert facts["steps_from_trunk"] == 20
    assert_same(found, fit(tmp_path, constant, 30, trunks=False)[0])


def test_what_an_optimizer_makes_of_the_weights_at_the_end_is_no_trunk(tmp_path: Path) -> None:
    constant = how(Wsd(warmup_fraction=0, decay_fraction=0), optimizer=ScheduleFree)
    fit(tmp_path, constant, 20)
    found, _, facts = fit(tmp_path, constant, 30)
    assert facts["steps_from_trunk"] == 16
    assert_same(found, fit(tmp_path, constant, 30, trunks=False)[0])


CHANGES = {
    "code": ({"code": "other"}, how(), "the nearest differs in code\n"),
    "data": ({"seen": lambda step: [step if step != 3 else "other"]}, how(), "the data of step 3 are not those of"),
    "rate": ({"optimizer.lr": "1"}, how(), "the nearest differs in optimizer.lr\n"),
    "warm-up": ({}, how(Wsd(warmup_fraction=0.1)), "step 0 has 0.3333 of the full learning rate, and 1 in"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_shares_nothing_and_is_named(
    change: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    differs, recipe, reason = CHANGES[change]
    fit(tmp_path, how(), 20)
    capsys.readouterr()
    assert fit(tmp_path, recipe, 20, **differs)[2]["steps_from_trunk"] == 0
    assert f"toy: shares no trunk: {reason}" in capsys.readouterr().out


def test_late_data_that_differ_leave_the_steps_before(tmp_path: Path) -> None:
    fit(tmp_path, how(), 40)
    facts = fit(tmp_path, how(), 40, seen=lambda step: [step if step != 30 else "other"])[2]
    assert facts["steps_from_trunk"] == 23  # of 8, 11, 16, 23, 32 and 33


@pytest.mark.parametrize("cut", [0, 7, 1000, -1])
def test_a_torn_trunk_is_no_trunk(cut: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, how(), 20)
    *others, longest = sorted(tmp_path.rglob("step-*.safetensors"))
    assert [place_of(path).step for path in (*others, longest)] == [8, 11, 16, 17]
    longest.write_bytes(longest.read_bytes()[:cut])
    flipped = bytearray(others[-1].read_bytes())
    flipped[-5] ^= 1
    others[-1].write_bytes(flipped)
    found, _, facts = fit(tmp_path, how(), 30)
    assert facts["steps_from_trunk"] == 11
    assert f"{longest}: " in (said := capsys.readouterr().err) and f"{others[-1]}: its bytes do not have" in said
    assert_same(found, fit(tmp_path, how(), 30, trunks=False)[0])


def test_a_run_that_would_not_be_compiled_takes_no_compiled_trunk(tmp_path: Path) -> None:
    fit(tmp_path, how(), 20)
    for path in tmp_path.rglob("step-*.safetensors"):
        path.rename(path.with_name(place_of(path)._replace(compiled=True).name))
    assert fit(tmp_path, how(), 30)[2]["steps_from_trunk"] == 0


def test_what_is_edited_meanwhile_leaves_no_trunk(tmp_path: Path) -> None:
    fit(tmp_path, how(), 20, unchanged=lambda: False)
    assert not list(tmp_path.rglob("step-*"))


def test_a_folder_that_cannot_be_written_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    weights, _, _ = fit(tmp_path / "file", how(), 20)
    assert "toy: the trunk of 8 steps is not kept: " in capsys.readouterr().out
    assert_same(weights, fit(tmp_path, how(), 20, trunks=False)[0])


def test_a_trunk_larger_than_the_limit_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path, how(), 20, limit=1000)
    assert not list(tmp_path.rglob("step-*")) and "larger than all of them may be" in capsys.readouterr().out


def put(store: TrunkStore, stage: str, root: str, step: int, size: int) -> Path:
    path = store.folder / stage / root / Place(step, "d" * 8, False).name
    entries, data = Snapshot().take({"x": torch.full((size,), step, dtype=torch.uint8)})
    store.write(path, entries, data, {"step": str(step), "optimizer": "none"}, DECIDED)
    return path


WRITES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("rs"), st.integers(1, 40), st.integers(0, 5000)), max_size=12
)


@settings(max_examples=40, deadline=None)
@given(WRITES, st.integers(2_000, 20_000))
def test_the_limit_holds_and_the_last_stay(writes: list[tuple[str, str, int, int]], limit: int) -> None:
    with TemporaryDirectory() as name:
        store = TrunkStore(Path(name), limit)
        for stage, root, step, size in writes:
            path = put(store, stage, root, step, size)
            files = [p.stat().st_size for p in store.folder.rglob("*.safetensors")]
            assert sum(files) <= limit
            assert path.exists() or size + 600 > limit
        assert all(place_of(p) and read(p) for p in store.folder.rglob("*.safetensors"))
        kept = {path.parent for path in store.folder.rglob("*.safetensors")}
        assert {path.parent for path in store.folder.rglob("decided.json")} == kept, "a folder without trunks was left"


def test_the_one_used_last_stays(tmp_path: Path) -> None:
    store = TrunkStore(tmp_path, 4 * 4096)
    first, second, third = files = [put(store, "a", "r", step, 4096) for step in (1, 2, 3)]
    for seconds, path in enumerate(files):
        os.utime(path, (seconds, seconds))
    assert store.used(first)
    put(store, "a", "r", 4, 4096)
    assert first.exists() and third.exists() and not second.exists() and not store.used(second)
    (tmp_path / "a" / "r" / ".step-00000009-x.safetensors.unfinished").write_text("of a process that was killed")
    put(store, "a", "r", 5, 10)
    assert not list(tmp_path.rglob("*.unfinished"))


def keep_writing(folder: Path, seed: int) -> None:
    store = TrunkStore(folder, 40_000)
    for step in range(1, 60):
        put(store, "ab"[(seed + step) % 2], "rs"[step % 2], step, 1000 + 100 * seed)
        for path in store.trunks("a", "r"):
            try:
                assert len(read(path)[1]["x"]) % 100 == 0
            except FileNotFoundError:
                continue


def test_processes_that_write_at_once_do_not_clash(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")  # imports torch once
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=keep_writing, args=(tmp_path, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    files = list(tmp_path.rglob("step-*"))
    assert files and sum(path.stat().st_size for path in files) <= 40_000 and all(read(path) for path in files)
