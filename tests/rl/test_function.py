"""A user's own reward function: what it is called with, and that nothing it does harms the trainer or passes for a reward."""

import json
import math
import os
from pathlib import Path

import pytest

from lm.problems.example import Example, Score
from tasks.core.config import ConfigError
from tasks.rl.inputs import trouble_of
from tasks.rl.rewards import Correct, Function
from tasks.rl.rewards.base import Answer, RewardContext
from tests.processes import ended, wait_for
from tests.rl.toys import config, trained

EXAMPLES = [Example(str(i), f"{i}+1=", str(i + 1), "shown", "easy") for i in range(2)]
NOW = RewardContext(0.0, 10)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/rewards").mkdir(parents=True)
    return tmp_path / "data/rewards"


def answers(*texts: str) -> list[Answer]:
    """Two answers to a problem, those to the next, and so on."""
    return [Answer(EXAMPLES[i // 2], [i, 7], text, True, Score(0.0)) for i, text in enumerate(texts)]


def values(folder: Path, source: str, *texts: str, seconds: float = 3600) -> list[float | None]:
    """What the function of this source gives, None where the answer is invalid."""
    (folder / "own.py").write_text(source)
    found = Function(file="data/rewards/own.py", seconds=seconds)(answers(*texts), NOW)
    return [None if math.isnan(value) else value for value in found]


def test_it_is_called_as_trl_calls_it_for_one_problem_after_another(folder: Path) -> None:
    source = """
import json
from beside import path

def reward(prompts, completions, answer, **columns):
    print("said")
    with open(path, "a") as file:
        file.write(json.dumps([prompts, completions, answer, columns]) + chr(10))
    return [len(text) for text in completions]
"""
    (folder / "beside.py").write_text("path = 'calls'\n")
    assert values(folder, source, "a", "bb", "ccc", "") == [1.0, 2.0, 3.0, 0.0]
    columns = {
        "completion_ids": [[0, 7], [1, 7]],
        "demonstration": ["shown"] * 2,
        "id": ["0"] * 2,
        "level": ["easy"] * 2,
    }
    first, second = map(json.loads, Path("calls").read_text().splitlines())
    assert first == [["0+1="] * 2, ["a", "bb"], ["1"] * 2, columns]
    assert second[:3] == [["1+1="] * 2, ["ccc", ""], ["2"] * 2]


def test_nothing_is_no_reward_and_nothing_said_of_an_answer_is_zero(folder: Path) -> None:
    assert values(folder, "def reward(completions, **_): return [None, 1]", "a", "b") == [0.0, 1.0]


FAILS = {
    "raises": "raise KeyError('no such thing')",
    "gives too few": "return [1.0] * (len(completions) - 1)",
    "gives what is no number": "return ['much' for _ in completions]",
    "gives what is not finite": "return [float('nan') for _ in completions]",
    "gives no list": "return 1.0",
}


@pytest.mark.parametrize("what", FAILS)
def test_only_the_answers_on_which_it_fails_are_invalid(
    what: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = f"def reward(completions, **_):\n    if 'bad' in completions: {FAILS[what]}\n    return [0.5] * len(completions)\n"
    assert values(folder, source, "good", "bad", "good", "good") == [0.5, None, 0.5, 0.5]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(
        "rl.rewards: reward of data/rewards/own.py failed on 1 of 4 answers: "
    )


def test_what_takes_too_long_is_invalid_though_it_catches_all_exceptions(folder: Path) -> None:
    """The slow one has its own time nearly over, and the fast ones all that a busy machine may need."""
    source = """
import signal, time
def reward(completions, **_):
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    if not 3000 < left <= 3600:
        return [left] * len(completions)
    if "slow" in completions:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
    while "slow" in completions:
        try:
            time.sleep(60)
        except Exception:
            pass
    return [1.0] * len(completions)
"""
    assert values(folder, source, "slow", "fast", "fast", "fast", seconds=3600) == [None, None, 1.0, 1.0]


def test_a_process_that_ends_takes_the_rest_of_its_answers_with_it(folder: Path) -> None:
    source = (
        "import os\ndef reward(completions, **_):\n    if 'bad' in completions: os._exit(3)\n    return [1.0, 1.0]\n"
    )
    assert values(folder, source, "good", "good", "bad", "good") == [1.0, 1.0, None, None]


def test_what_it_started_ends_with_it(folder: Path) -> None:
    source = """
import subprocess
def reward(completions, **_):
    child = subprocess.Popen(["sleep", "inf"])
    return [child.pid] * 2
"""
    (child, *_) = values(folder, source, "a", "b")
    assert child
    wait_for(lambda: ended(int(child)))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def reward(completions): return [1.0]", "failed on 2 of 2 answers: TypeError: .*unexpected keyword argument"),
        ("import nothing_of_this_name", "failed on 2 of 2 answers: ModuleNotFoundError: No module named"),
        ("def other(): pass", "failed on 2 of 2 answers: ValueError: there is no function reward"),
        ("import os; os._exit(3)", "failed on 2 of 2 answers: its process ended with 3"),
    ],
)
def test_a_function_that_fails_on_every_answer_ends_the_stage(folder: Path, source: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^rl.rewards: reward of data/rewards/own.py {said}"):
        values(folder, source, "a", "b")


def test_a_file_must_lie_where_dvc_looks(folder: Path) -> None:
    with pytest.raises(ValueError, match="rewards reads /etc/own.py, which is in neither of data/rewards"):
        config(rewards=[Function(file="/etc/own.py")])
    with pytest.raises(ConfigError, match="data/rewards/none.py: no such file"):
        Function(file="data/rewards/none.py")(answers("a", "b"), NOW)


def test_what_is_wrong_with_a_file_is_told_before_a_run(folder: Path) -> None:
    own = folder / "own.py"
    assert "No such file" in trouble_of(own, "reward")
    own.write_text("def reward(:")
    assert trouble_of(own, "reward").startswith("is no Python")
    own.write_text("def score(**_): return []\nfrom x import other as third\nfourth = score\n")
    assert [trouble_of(own, name) for name in ("score", "third", "fourth")] == [None] * 3
    assert trouble_of(own, "reward") == "has no function reward"


def test_a_policy_learns_from_it_and_each_part_is_told(folder: Path, tmp_path: Path) -> None:
    (folder / "own.py").write_text(
        "def reward(completions, **_):\n    return [float('e' in text) for text in completions]\n"
        "def other(completions, **_):\n    return [float('a' in text) for text in completions]\n"
    )
    parts = [Correct(), Function(file="data/rewards/own.py", weight=3.0)]
    before, said = trained(tmp_path / "a", config(rewards=parts))
    assert (
        before
        != trained(tmp_path / "b", config(rewards=[parts[0], parts[1].model_copy(update={"function": "other"})]))[0]
    )
    assert before != trained(tmp_path / "c", config(rewards=[parts[0], parts[1].model_copy(update={"weight": 2.0})]))[0]
    assert {"reward_correct", "reward_function", "invalid"} <= set(said[0])
    first = said[0]
    assert first["reward"] == pytest.approx(first["reward_correct"] + 3 * first["reward_function"], abs=1e-6)
    assert 0 < first["invalid"] < 1 and os.getcwd() == str(tmp_path)
