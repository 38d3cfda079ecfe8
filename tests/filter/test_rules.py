"""What every rule of the room promises: a verdict on each document that hangs on that document alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lm.config import ConfigError, methods_of
from lm.problems import Arithmetic
from tasks.core.log import Log
from tasks.core.tables import shard_path, write_table
from tasks.filter import methods
from tasks.filter.rule import Batch, Judgement, Setting
from tests.compiled import arrays_left
from tests.filter.documents import GOOD, batch_of, texts

RULES = methods_of(methods)
documents = st.lists(texts, min_size=1, max_size=8)


@pytest.fixture(scope="module", params=RULES, ids=lambda rule: rule.__name__)
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A rule with its defaults and the folder that it prepared; skipped, visibly, where it needs files that only a user has."""
    folder = tmp_path_factory.mktemp("rule")
    rows = {
        "id": ["0", "1"],
        "source": ["a", "b"],
        "text": pa.array([GOOD, "x"], pa.large_string()),
        "meta": ["{}"] * 2,
    }
    write_table(shard_path(folder / "documents", 0), pa.table(rows))
    (folder / "own").mkdir()
    try:
        rule = request.param()
        rule.prepare(Setting(folder / "documents", Arithmetic(digits=1), folder / "own", Log()))
    except (ValidationError, ConfigError) as error:
        pytest.skip(f"{request.param.__name__} needs more than its defaults: {error}")
    return rule, folder / "own"


def alone(rule, folder: Path, batch: Batch) -> list[Judgement]:
    """The judgements of each document in a batch of its own."""
    one = (
        (n, batch.sources.slice(n, 1), batch.texts.slice(n, 1), batch.meta.slice(n, 1)) for n in range(len(batch.texts))
    )
    return [rule.judge(Batch(batch.shard, batch.first + n, *columns), folder) for n, *columns in one]


@settings(deadline=None, max_examples=25, derandomize=True)
@given(documents)
def test_a_verdict_is_that_of_the_document_alone(prepared, found: list[str]) -> None:
    rule, folder = prepared
    batch = batch_of(found)
    together = rule.judge(batch, folder)
    assert len(together.reasons) == len(found)
    for row, one in enumerate(alone(rule, folder, batch)):
        assert one.reasons[0] == together.reasons[row]
        assert together.reasons[row] is None or together.reasons[row].partition(":")[0].isidentifier()
        if together.texts is not None:
            assert (one.texts if one.texts is not None else batch.texts.slice(row, 1))[0] == together.texts[row]
        for name, scores in together.scores.items():
            assert scores.dtype == np.float32 and (one.scores[name][0] == scores[row] or np.isnan(scores[row]))
        for name, counts in together.counts.items():
            assert counts[row] >= 0 and one.counts[name][0] == counts[row]


@settings(deadline=None, max_examples=20, derandomize=True)
@given(documents, st.randoms(use_true_random=False))
def test_order_changes_no_verdict(prepared, found: list[str], random) -> None:
    rule, folder = prepared
    order = list(range(len(found)))
    random.shuffle(order)
    before = rule.judge(batch_of(found), folder).reasons
    after = rule.judge(batch_of([found[n] for n in order]), folder).reasons
    assert list(before[order]) == list(after)


def test_no_documents_give_the_names_of_scores_and_counts(prepared) -> None:
    rule, folder = prepared
    nothing, some = rule.judge(batch_of([]), folder), rule.judge(batch_of([GOOD]), folder)
    assert len(nothing.reasons) == 0
    assert nothing.scores.keys() == some.scores.keys() and nothing.counts.keys() == some.counts.keys()


def test_compiled_code_frees_what_it_makes(prepared) -> None:
    rule, folder = prepared
    assert arrays_left(lambda: rule.judge(batch_of([GOOD, f"{GOOD}.\n{'word ' * 2000}", ""]), folder)) == 0
