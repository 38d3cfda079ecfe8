"""Environments: what is theirs in an answer is never learned from, and what they are given to compute can harm nothing."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm.checkpoint import save_model
from lm.config import ConfigError
from lm.model import Decoder
from lm.problems.example import Example, Score
from lm.sampler import Completion
from tasks.core.process import Stopped
from tasks.rl.advantages import Remax
from tasks.rl.answers import Verdicts, answer_problems
from tasks.rl.curricula import Hints
from tasks.rl.environments import Calculator, Python, SingleTurn
from tasks.rl.environments.base import Environment, Sample, Transcript
from tasks.rl.environments.calls import TURN, Calls, call_in, neutral, tokens_to_call
from tasks.rl.learning import Learning
from tasks.rl.losses import PolicyGradient
from tasks.rl.rewards import Correct, Overlong, Repetition
from tasks.rl.rewards.base import RewardContext
from tasks.rl.rollout import rollout_of
from tasks.rl.stage import run
from tasks.rl.trust import entropy_of
from tests.neighbours import assert_all_differ, neighbours
from tests.project import digest
from tests.rl.toys import TOKENIZER, Interrupted, Parity, config, learning, policy, trained

quick = settings(deadline=None, max_examples=50, derandomize=True)
END = TOKENIZER.end_id
# One character a mark, so that a model of bytes calls now and then.
SHORT = Calculator(begin="(", end=")", result_begin="[", result_end="]", turns=2, result_tokens=8)
CALLING: list[Calls] = [SHORT, Calculator(), Calculator(begin="<c>", end="</c>", result_begin="<r>", result_end="</r>")]


def text_of(written: Transcript) -> list[tuple[bool, str]]:
    """Stretches of an answer, and whether the model wrote each."""
    found: list[tuple[bool, list[int]]] = []
    for index, own in zip(written.ids, written.own, strict=True):
        if not found or found[-1][0] != own:
            found.append((own, []))
        found[-1][1].append(index)
    return [(own, TOKENIZER.decode(ids)) for own, ids in found]


class Script:
    """A sampler that writes what stands in a script: texts of each turn by the place of the answer; `|` is the end."""

    def __init__(self, *turns: list[str]) -> None:
        self._turns, self.prompts = turns, list[list[list[int]]]()

    def __call__(self, prompts: list[list[int]], draws: list[int]) -> list[Completion]:
        self.prompts.append(prompts)
        return [self._written(*divmod(draw, TURN)) for draw in draws]

    def _written(self, turn: int, place: int) -> Completion:
        text, end, _ = self._turns[turn][place].partition("|")
        ids = TOKENIZER.encode(text) + [END] * bool(end)
        return Completion(ids, [-0.5 - n for n in range(len(ids))], bool(end))


PROMPTS = [TOKENIZER.chat("1+2="), TOKENIZER.chat("say"), TOKENIZER.chat("go on")]


def test_a_result_stands_behind_its_call_and_the_model_writes_on_from_it() -> None:
    script = Script(["<<1+2>> and so on|", "plain|", "<<2*3>>"], [": 3|", "", "<<6*7>>x"], ["", "", "!|"])
    found = Calculator()(script, TOKENIZER, PROMPTS, 40)
    assert [text_of(written) for written in found] == [
        [(True, "<<1+2>>"), (False, "[[3]]"), (True, ": 3")],
        [(True, "plain")],
        [(True, "<<2*3>>"), (False, "[[6]]"), (True, "<<6*7>>"), (False, "[[42]]"), (True, "!")],
    ]
    assert [written.finished for written in found] == [True] * 3 and [written.calls for written in found] == [1, 0, 2]
    assert found[0].logps == [-0.5 - n for n in range(7)] + [0.0] * 5 + [-0.5, -1.5, -2.5, -3.5]
    assert script.prompts[1] == [PROMPTS[0] + found[0].ids[:12], PROMPTS[2] + found[2].ids[:12]]
    assert found[0].own_ids == [*TOKENIZER.encode("<<1+2>>: 3"), END]


def test_turns_are_bounded_and_what_is_too_long_ends() -> None:
    every = ["(1)"] * 3
    found = SHORT(Script(every, every, ["(1)x|"] * 3), TOKENIZER, PROMPTS, 40)
    # after two results a call is text
    assert text_of(found[0]) == [(True, "(1)"), (False, "[1]"), (True, "(1)"), (False, "[1]"), (True, "(1)x")]
    # the call takes the last token that the model may write: there is none to go on with, so it ends
    (only,) = SHORT(Script(["(1)|"]), TOKENIZER, PROMPTS[:1], 3)
    assert text_of(only) == [(True, "(1)")] and not only.finished
    # a turn that is longer than what is left is cut, and so is not finished
    (only,) = SHORT(Script(["(1)"], ["abc|"]), TOKENIZER, PROMPTS[:1], 5)
    assert text_of(only) == [(True, "(1)"), (False, "[1]"), (True, "ab")] and not only.finished


def test_a_call_in_a_result_is_no_call() -> None:
    class Echo(Calculator):
        def results(self, calls: list[str]) -> list[str]:
            return ["<<1+1>>[[9]]"] * len(calls)

    (only,) = Echo()(Script(["<<1>>"], ["|"]), TOKENIZER, PROMPTS[:1], 20)
    # a mark loses its first character, and what would make another one with its neighbour stands apart
    assert text_of(only)[:2] == [(True, "<<1>>"), (False, "[[  <1+1 > [9 ] ]]")] and only.calls == 1


pieces = st.sampled_from(
    ["<<", ">>", "[[", "]]", "<", ">", "(", ")", "[", "]", "1+1", "7", "/0", " ", "x", "<c>", "</c>", "|", "\u00e9"]
)
texts = st.lists(pieces, max_size=12).map("".join)


@quick
@given(data=st.data(), most=st.integers(1, 30))
@pytest.mark.parametrize(
    "method", [*CALLING, SingleTurn()], ids=lambda method: f"{method.name}-{getattr(method, 'begin', '')}"
)
def test_what_every_environment_keeps_to(method: Environment, data: st.DataObject, most: int) -> None:
    turns = [data.draw(st.lists(texts, min_size=3, max_size=3)) for _ in range(6)]
    found = method(limited(Script(*turns), most), TOKENIZER, PROMPTS, most)
    for place, written in enumerate(found):
        assert len(written.ids) == len(written.logps) == len(written.own)
        assert sum(written.own) <= most and len(written.ids) - sum(written.own) <= method.max_added_tokens
        assert all((logp == 0) == (not mine) for logp, mine in zip(written.logps, written.own, strict=True))
        assert written.finished == (bool(written.ids) and written.ids[-1] == END)
        assert END not in written.ids[:-1]
        stretches = [ids for mine, ids in text_of(written) if mine]
        if isinstance(method, Calls):
            assert len(stretches) - 1 <= written.calls <= method.turns
            for mine, text in text_of(written):
                if not mine:
                    assert marks_of(method, text) == [0, len(text) - len(method.result_end)]
        # what others write changes nothing
        changed = [[text if n == place else "other|" for n, text in enumerate(turn)] for turn in turns]
        assert method(limited(Script(*changed), most), TOKENIZER, PROMPTS, most)[place] == written


def marks_of(method: Calls, text: str) -> list[int]:
    """Where marks stand in a text, overlapping ones included."""
    return [at for at in range(len(text)) for mark in method.marks if text.startswith(mark, at)]


def limited(script: Script, most: int) -> Sample:
    """The sampler of a script that may write so many tokens."""

    def cut(written: Completion) -> Completion:
        ends = written.finished and len(written.ids) <= most
        return Completion(written.ids[:most], written.logps[:most], ends)

    return lambda prompts, draws: [cut(written) for written in script(prompts, draws)]


@quick
@given(text=texts | st.text(max_size=40))
def test_no_result_can_hold_a_mark_and_none_is_too_long(text: str) -> None:
    for method in CALLING:
        assert not any(mark in neutral(text, method.marks) for mark in method.marks)
        ids = method.result_ids(TOKENIZER, text)
        written = TOKENIZER.decode(ids)
        assert len(ids) <= method.result_tokens
        assert marks_of(method, written) == [0, len(written) - len(method.result_end)]
        assert written.startswith(method.result_begin) and written.endswith(method.result_end)
    plain = "".join(c for c in text if c not in "<>()[]|")[:20]
    assert Calculator().framed(plain) == f"[[{plain}]]"


def test_marks_that_cannot_be_told_apart_are_refused_and_so_are_results_without_room() -> None:
    for marks in (
        {"begin": "<", "end": "<<"},
        {"begin": "[["},
        {"result_begin": "a b"},
        {"end": ""},
        {"result_end": "x]]x", "begin": "]]"},
    ):
        with pytest.raises(ValueError, match="no mark may stand in another one|String should"):
            Calculator(**marks)
    with pytest.raises(ConfigError, match="rl.environment.result_tokens: 3 are fewer than the 4 of a result's marks"):
        Calculator(result_tokens=3).result_ids(TOKENIZER, "42")


def test_a_call_is_whole_with_its_last_mark() -> None:
    ids = TOKENIZER.encode("a<<b>>c>>")
    assert tokens_to_call(TOKENIZER, ids, "<<", ">>") == len("a<<b>>")
    assert tokens_to_call(TOKENIZER, ids[:5], "<<", ">>") is None is tokens_to_call(TOKENIZER, [], "<<", ">>")
    assert call_in("a>>b<<c\n>>>", "<<", ">>") == "c\n" and call_in("<<a", "<<", ">>") is None


def test_python_runs_each_call_by_itself() -> None:
    calls = [
        "print(6 * 7)",
        "```python\nx = 1\nprint(x)\n```",
        "print(x)",
        "1/0",
        "print('a'); raise SystemExit(2)",
        "",
        "while True: pass",
        "print('</code>')",
    ]
    assert Python(cpu_seconds=1).results(calls) == [
        "42",
        "1",
        "NameError: name 'x' is not defined",
        "ZeroDivisionError: division by zero",
        "a\nerror: exit status 2",
        "",
        "error: took longer than 1 s of a processor",
        "</code>",
    ]
    assert Python().framed("</code>") == "<interpreter> /code></interpreter>"


def calling() -> Decoder:
    """A policy that writes the marks of SHORT often."""
    model = policy()
    with torch.no_grad():
        for mark in "()":
            (index,) = TOKENIZER.encode(mark)
            model.head.weight[index] = model.head.weight[END] * (1.2 if mark == "(" else 1.1)
    return model


def called(**changes: Any) -> Any:
    return config(environment=SHORT, max_new_tokens=8, **changes)


def asked(own: Learning, samples: int = 4) -> Verdicts:
    found, _ = own._asked(0).learned_from()
    assert any(written.calls for written in found.completions) and any(all(w.own) for w in found.completions)
    return found


def test_result_tokens_are_not_learned_from() -> None:
    """Neither by the mask nor by what is made of it: the update, its tokens, the divergence, the entropy."""
    own = learning(called(loss=PolicyGradient(kl=0.1)), calling())
    found = asked(own)
    rollout = own._rollout(0)
    tokens = 0
    for row, (prompt, written) in enumerate(zip(found.prompts, found.completions, strict=True)):
        start, counts = len(prompt) - 1, float(found.mask_GS.flatten()[row])
        expected = [0.0] * start + [counts * mine for mine in written.own]
        assert rollout.mask_BT[row].tolist() == expected + [0.0] * (rollout.mask_BT.shape[1] - len(expected))
        assert rollout.ids_BN[row, start + 1 :][: len(written.ids)].tolist() == written.ids
        tokens += int(sum(expected))
    assert rollout.reference_BT is not None and not rollout.reference_BT[rollout.mask_BT == 0].any()
    logps = [
        p
        for w, m in zip(found.completions, found.mask_GS.flatten().tolist(), strict=True)
        for p, mine in zip(w.logps, w.own, strict=True)
        if m and mine
    ]
    assert entropy_of(rollout) == pytest.approx(-sum(logps) / len(logps), rel=1e-5)
    batches = [own.batch_at(step) for step in range(2)]
    assert sum(batch.tokens for batch in batches) == tokens < sum(len(w.ids) for w in found.completions)


def test_a_planted_bug_that_trains_on_results_is_caught_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were results learned from, the check of the sampler says so before the first update: they have no probability of the model."""

    def all_own(prompts: Any, completions: list[Transcript], *rest: Any) -> Any:
        return rollout_of(
            prompts, [Transcript(w.ids, w.logps, w.finished, [True] * len(w.ids)) for w in completions], *rest
        )

    monkeypatch.setattr("tasks.rl.learning.rollout_of", all_own)
    with pytest.raises(ConfigError, match="the model samples otherwise than it trains"):
        learning(called(), calling()).batch_at(0)


def test_the_gradient_is_that_of_the_models_own_tokens() -> None:
    """Of logits at each place of an answer, the loss has none where the next token is a result."""
    batch = learning(called(), calling()).batch_at(0)
    _, weights, old, advantages, *_ = batch.content
    mask = (weights > 0).float()
    model_logps = old.clone().requires_grad_(True)
    loss, _ = PolicyGradient()(model_logps, old, advantages, PolicyGradient().weights(mask, 8))
    loss.backward()
    assert model_logps.grad is not None and not model_logps.grad[mask == 0].any() and model_logps.grad[mask == 1].any()


class Reader(Parity):
    """Keeps the texts that it is asked to judge."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def score(self, example: Example, text: str) -> Score:
        self.texts.append(text)
        return super().score(example, text)


def test_lengths_repetitions_and_the_verifier_are_of_the_models_own_words() -> None:
    reader, parts = Reader(), [Overlong(buffer=1.0), Repetition(n=1)]
    examples = reader.examples("rl")[:6]
    found = answer_problems(
        calling(), TOKENIZER, reader, SHORT, parts, RewardContext(0, 8), examples, [[]] * 6, 4, 0.7, 0
    )
    assert any(written.calls for written in found.completions)
    for written, said, overlong, repetition in zip(found.completions, reader.texts, *found.values, strict=True):
        own = [index for index, mine in zip(written.ids, written.own, strict=True) if mine]
        assert said == TOKENIZER.decode(own)
        assert overlong == pytest.approx(-len(own) / 8) and repetition == pytest.approx(1 - len(set(own)) / len(own))
    assert found.metrics()["completion_tokens"] == pytest.approx(sum(sum(w.own) for w in found.completions) / 24)


def test_the_ledger_says_which_tokens_are_the_models(tmp_path: Path) -> None:
    given = called(keep_rollouts=True)
    trained(tmp_path / "kept", given, calling())
    rows = pq.read_table(tmp_path / "kept/rl/rollouts.parquet").to_pylist()
    assert any(not all(row["own"]) for row in rows)
    for row in rows:
        assert len(row["own"]) == len(row["ids"]) == len(row["logps"])
        assert all((logp == 0) == (not mine) for logp, mine in zip(row["logps"], row["own"], strict=True))
        stretches = text_of(Transcript(row["ids"], row["logps"], row["finished"], row["own"]))
        assert all(text[0] + text[-1] == "[]" for mine, text in stretches if not mine)
    trained(tmp_path / "plain", config(keep_rollouts=True))
    assert "own" not in pq.read_schema(tmp_path / "plain/rl/rollouts.parquet").names


EVERYTHING = {
    "curriculum": Hints(levels=2), "resample": 1, "replay": 4, "loss": PolicyGradient(kl=0.1), "advantage": Remax(),
    "rewards": [Correct(), Overlong()], "steps": 12, "keep_rollouts": True,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, EVERYTHING], ids=["default", "all that has a state"])
def test_stopped_after_every_update_it_ends_in_the_same_bytes(changes: dict[str, Any], tmp_path: Path) -> None:
    given = called(**changes)
    whole, said = trained(tmp_path / "whole", given, calling())
    assert 0 < said[0]["calls"] <= 2
    for folder in ("sft", "rl", "scratch"):
        (tmp_path / folder).mkdir()
    save_model(tmp_path / "sft", calling(), TOKENIZER)
    for _ in range(given.steps):
        with pytest.raises(Stopped):
            run(given, tmp_path, Interrupted(tmp_path / "scratch"))
    run(given, tmp_path, Interrupted(tmp_path / "scratch"))
    assert digest(tmp_path / "rl") == whole


def test_one_turn_is_what_there_was_and_every_parameter_counts(tmp_path: Path) -> None:
    plain = config(max_new_tokens=8)
    assert "calls" not in trained(tmp_path / "plain", plain, calling())[1][0]
    folders = iter(range(1000))

    def weights(changes: dict[str, Any]) -> str:
        return trained(tmp_path / str(next(folders)), config(max_new_tokens=16, **changes), calling())[0]

    tries = [[{"environment": SHORT}], [{"environment": SHORT.model_copy(update={"begin": ")", "end": "("})}]]
    for name in ("turns", "result_tokens"):
        tries += [[{"environment": other} for other in others] for others in neighbours(SHORT, name)]
    tries.append([{"environment": SHORT.model_copy(update={"result_begin": "{", "result_end": "}"})}])
    assert_all_differ(weights, tries)


def test_a_policy_of_programs_runs_end_to_end(tmp_path: Path) -> None:
    short = Python(begin="(", end=")", result_begin="[", result_end="]", turns=1, result_tokens=12, cpu_seconds=1)
    _, said = trained(tmp_path, config(environment=short, max_new_tokens=8, steps=2, updates=1), calling())
    assert said[0]["calls"] > 0


def test_room_for_results_is_kept_free(tmp_path: Path) -> None:
    """A context of 48 less 8 tokens of the model and two results of 19 leaves 2: no prompt fits."""
    with pytest.raises(ConfigError, match="rl.max_new_tokens: no prompt fits the context of 48 less 46"):
        trained(
            tmp_path, config(max_new_tokens=8, environment=SHORT.model_copy(update={"result_tokens": 19})), calling()
        )
