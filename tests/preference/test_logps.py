"""Log-probabilities of answers: those of one sequence at a time, whatever is read together, and the model as it was."""

import pytest
import torch

from lm.training.data.conversations import Conversation
from tasks.preference import logps
from tasks.preference.logps import answer_logps, end_of
from tests.preference.made import TOKENIZER, writer

ANSWERS = [Conversation(list(range(5, 6 + n % 5)), list(range(40, 41 + 3 * n % 11))) for n in range(9)]


@pytest.mark.parametrize("positions", [1, 40, 10**6])
def test_each_is_the_sum_over_its_own_answer(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logps, "POSITIONS", positions)
    model, told = writer().train(), list[tuple[int, int]]()
    found = answer_logps(
        model, [len(c) for c in ANSWERS], ANSWERS.__getitem__, TOKENIZER.pad_id, lambda *said: told.append(said)
    )
    for answer, logp in zip(ANSWERS, found.tolist(), strict=True):
        table = model(torch.tensor([answer.prompt + answer.completion]))[0].log_softmax(-1)
        rows = table[len(answer.prompt) - 1 : -1]
        assert logp == pytest.approx(rows[range(len(rows)), answer.completion].sum().item(), rel=1e-5)
    assert model.training and not found.requires_grad
    assert (
        told[-1] == (9, 9)
        and len(told) == {1: 9, 10**6: 1}.get(positions, len(told))
        and (positions != 40 or 1 < len(told) < 9)
    )


def test_rows_are_read_together_up_to_the_positions_and_never_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logps, "POSITIONS", 12)
    lengths, edges = [2, 2, 3, 4, 6, 6, 20, 30], [0]
    while edges[-1] < len(lengths):
        edges.append(end_of(lengths, edges[-1]))
    assert edges == [0, 3, 5, 6, 7, 8]
