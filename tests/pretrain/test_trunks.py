"""Real stages that go on from a trunk: the bytes of a run made alone, and no trunk where anything differs."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.curriculum.plan import Budget, Documents, Prefixes, Ranges
from tasks.curriculum.stage import CurriculumConfig
from tasks.curriculum.stream import drawing
from tests.processes import wait_for
from tests.project import DATA_STAGES, ROOT, TINY, digest, make_project, run_stage, start_stage
from tests.tiny import Tiny

pytestmark = pytest.mark.usefixtures("on_cpu")
STEP = TINY["curriculum"]["tokens_per_step"]
SHORT, LONG = 16, 32
STABLE = 14  # steps of the short run before its decay
# The order that keeps its beginning in a longer plan, to a hundredth of the corpus
ORDER = {"name": "repeated_subsets", "fraction": 0.01}


def wsd(decay: float) -> dict[str, Any]:
    return {"name": "wsd", "warmup_fraction": 0.0, "decay_fraction": decay}


def params(steps: int = SHORT, decay: float = 0.2, **changes: Any) -> dict[str, Any]:
    """Those of a variant. changes: of the section pretrain."""
    pretrain = {**TINY["pretrain"], "shards": 2, "samples_every": 10, "schedule": wsd(decay), **changes}
    tuned = {stage: {**TINY[stage], "schedule": wsd(decay)} for stage in ("sft", "rl", "distill")}
    return {
        **TINY,
        **tuned,
        "curriculum": {**TINY["curriculum"], "order": ORDER, "tokens": steps * STEP},
        "pretrain": pretrain,
    }


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the stages before the curriculum."""
    return tiny.project(tmp_path_factory.mktemp("made"), "tokenize", params())


def variant(before: Path, folder: Path, values: dict[str, Any]) -> Path:
    """A project of these params that is about to pretrain; of the stages before it has what the other project has."""
    folder.mkdir()
    project = make_project(folder, values)
    for stage in DATA_STAGES:
        if (before / "data" / stage).exists():
            shutil.copytree(before / "data" / stage, project / "data" / stage)
    if not (project / "data" / "curriculum").exists():
        run_stage(project, "curriculum")
    return project


def pretrained(project: Path, store: Path | str, **environment: str) -> tuple[str, float]:
    """(digest of the output, steps from a trunk) of a whole run; a store of "" is none."""
    run_stage(project, "pretrain", TOKENMILL_TRUNKS=str(store), **environment)
    return digest(project / "data" / "pretrain"), facts(project, "pretrain").get("steps_from_trunk", -1)


def facts(project: Path, stage: str) -> dict[str, float]:
    return json.loads((project / "data" / "timings" / f"{stage}.json").read_text())


@pytest.fixture(scope="module")
def short(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has pretrained and left its trunks in trunks/."""
    project = variant(made, tmp_path_factory.mktemp("short") / "project", params())
    assert pretrained(project, project / "trunks")[1] == 0
    return project


@pytest.fixture(scope="module")
def longer(made: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project that asks for more steps, and the digest of what it makes alone."""
    project = variant(made, tmp_path_factory.mktemp("longer") / "project", params(LONG))
    alone, began = pretrained(project, "")
    assert began == -1
    return project, alone


def trunks(short: Path, folder: Path) -> Path:
    """A copy of those that the short run left."""
    return Path(shutil.copytree(short / "trunks", folder / "trunks"))


def test_more_steps_go_on_from_the_trunk(short: Path, longer: tuple[Path, str], tmp_path: Path) -> None:
    """The steps before the decay of the short run are not done again, by two processes as by one."""
    project, alone = longer
    for ranks in ("1", "2"):
        assert pretrained(project, trunks(short, tmp_path / ranks), TOKENMILL_RANKS=ranks) == (alone, STABLE)
    lines = (project / "data" / "pretrain" / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(LONG))


def test_killed_after_a_trunk_it_goes_on_from_its_own_checkpoint(
    short: Path, longer: tuple[Path, str], tmp_path: Path
) -> None:
    project, alone = longer
    environment = {"TOKENMILL_TRUNKS": str(trunks(short, tmp_path)), "TOKENMILL_CHECKPOINT_SECONDS": "0"}
    process = start_stage(project, "pretrain", **environment)
    scratch = project / ".scratch" / "pretrain"
    written = scratch.rglob
    wait_for(lambda: any(int(path.stem[5:]) >= STABLE + 4 for path in written("step-*.safetensors")), process)
    process.kill()
    process.communicate()
    assert pretrained(project, tmp_path / "trunks") == (alone, 0)


def test_another_decay_shares_the_stable_phase(short: Path, tmp_path: Path) -> None:
    project = variant(short, tmp_path / "project", params(decay=0.1))
    assert pretrained(project, trunks(short, tmp_path)) == (pretrained(project, "")[0], STABLE)


def test_another_rate_shares_nothing(short: Path, tmp_path: Path) -> None:
    project = variant(short, tmp_path / "project", params(optimizer={"name": "muon", "lr": 0.01}))
    assert pretrained(project, trunks(short, tmp_path))[1] == 0


def test_another_token_in_an_early_batch_shares_nothing_after_it(short: Path, tmp_path: Path) -> None:
    project = variant(short, tmp_path / "project", params())
    plan = pq.read_table(project / "data" / "curriculum" / "plan.parquet").to_pydict()
    row = plan["step"].index(9)
    starts = pq.read_table(project / "data" / "tokenize" / "documents.parquet")["start"].to_pylist()
    path = project / "data" / "tokenize" / "tokens.npy"
    tokens = np.load(path)
    tokens[starts[plan["document"][row]] + plan["offset"][row]] ^= 1
    np.save(path, tokens)
    assert pretrained(project, trunks(short, tmp_path))[1] == 8


def test_an_edit_of_code_shares_nothing(short: Path, tmp_path: Path) -> None:
    project = variant(short, tmp_path / "project", params())
    (project / "lm").unlink()
    shutil.copytree(ROOT / "lm", project / "lm", ignore=shutil.ignore_patterns("__pycache__"))
    with (project / "lm" / "training" / "guard.py").open("a") as file:
        file.write("\n# edited\n")
    assert "the nearest differs in lm/training\n" in run_stage(
        project, "pretrain", TOKENMILL_TRUNKS=str(trunks(short, tmp_path))
    )


def test_two_at_once_with_one_store(longer: tuple[Path, str], tmp_path: Path) -> None:
    project, alone = longer
    other = variant(project, tmp_path / "project", params(LONG, decay=0.1))
    processes = [start_stage(p, "pretrain", TOKENMILL_TRUNKS=str(tmp_path / "trunks")) for p in (project, other)]
    for process in processes:
        assert process.communicate()[0] is not None and process.returncode == 0
    assert digest(project / "data" / "pretrain") == alone
    found = digest(other / "data" / "pretrain")
    assert found == pretrained(other, "")[0]


LENGTH, PER_STEP = 16, 8
SHUFFLED = {"name": "shuffled"}
PACKING = {"name": "shuffled_packing", "sequence_length": LENGTH}
SUBSETS = [{"name": "repeated_subsets", "fraction": 0.01, "replacement": again} for again in (False, True)]
GROWING = {"name": "grow_length", "min_length": LENGTH // 4, "max_length": LENGTH}
SPREAD = [
    *(
        (PACKING, order)
        for order in (
            SHUFFLED,
            {"name": "by_score", "score": "length"},
            {"name": "by_score", "score": "length", "bins": 4},
            {"name": "mixture", "phases": [{"share": 1.0}]},
            {"name": "two_set"},
            {"name": "loss_window", "score": "length"},
        )
    ),
    ({"name": "best_fit_packing", "sequence_length": LENGTH}, SHUFFLED),
    (GROWING, SHUFFLED),
    ({"name": "length_buckets", "min_length": LENGTH // 4, "max_length": LENGTH}, SHUFFLED),
]


def planned(method: dict[str, Any], order: dict[str, Any], steps: int, share: float | None = None) -> Ranges:
    """The plan of so many steps over 1,000 documents of 20,000 tokens; share: that prefixes stand in, None: there are none."""
    budget = {"tokens": steps * LENGTH * PER_STEP, "tokens_per_step": LENGTH * PER_STEP}
    config = CurriculumConfig.model_validate({"method": method, "order": order, **budget, "seed": 0})
    generator = np.random.default_rng(0)
    length = generator.integers(1, 40, size=1000)
    sources = generator.integers(0, 2, size=1000).astype(np.int32)
    documents = Documents(np.arange(1000), length, sources, ("a", "b"), {"length": length})
    prefixes = None if share is None else Prefixes(["a", "bc"], sources.astype(np.int64), share)
    draw = drawing(documents, config.order, prefixes, np.array([1, 2]), 0)
    return config.method(documents, draw, Budget(config.tokens, config.tokens_per_step), 0)


def same_steps(left: Ranges, right: Ranges) -> int:
    """The steps at their beginning in which two plans are the same."""
    names = ("step", "sequence", "document", "offset", "length")
    a, b = (np.stack([getattr(plan, name) for name in names]) for plan in (left, right))
    count = min(a.shape[1], b.shape[1])
    differs = np.flatnonzero((a[:, :count] != b[:, :count]).any(axis=0))
    return int(a[0, differs[0] if len(differs) else count - 1])


@pytest.mark.parametrize("order", SUBSETS, ids=str)
def test_plans_of_subsets_keep_their_beginning_when_they_grow(order: dict[str, Any]) -> None:
    """100 steps are two thirds of an epoch, 200 are one and a quarter."""
    assert same_steps(planned(PACKING, order, 100), planned(PACKING, order, 200)) > 95
    # three lengths have a third of the steps each, and the first of them is the same
    assert 30 <= same_steps(planned(GROWING, order, 100), planned(GROWING, order, 200)) <= 33


@pytest.mark.parametrize(("method", "order"), SPREAD, ids=lambda value: value["name"])
def test_other_plans_do_not(method: dict[str, Any], order: dict[str, Any]) -> None:
    """A line of docs/trees.md that must go when one does."""
    assert same_steps(planned(method, order, 100), planned(method, order, 200)) < 8


def test_prefixes_share_up_to_where_they_end() -> None:
    """Those of metadata_conditioning stand in the first 0.9 of the run."""
    left, right = (planned(PACKING, SUBSETS[0], steps, share=0.9) for steps in (100, 200))
    assert 80 < same_steps(left, right) <= 90


def test_whole_epochs_of_the_default_order_stay() -> None:
    left, right = (planned(PACKING, SHUFFLED, steps) for steps in (200, 300))
    assert same_steps(left, right) >= 150  # an epoch has 20,000 tokens, 156 steps
