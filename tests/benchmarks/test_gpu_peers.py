"""The peers of the check of a GPU run in the way that their own documents give, which a CPU can see as well."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from benchmarks.gpu.check import Check
from benchmarks.gpu.checkpoint import checkpoint
from benchmarks.gpu.rollout import SMALL, prompt_ids, theirs


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_generation_has_the_cache_that_its_row_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    whole, seen = transformers.LlamaForCausalLM.forward, set[str]()

    def forward(model: Any, *rest: Any, **more: Any) -> Any:
        seen.add(type(more["past_key_values"]).__name__)
        return whole(model, *rest, **more)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", forward)
    check = Check(torch.device("cpu"), True, tmp_path, "rollout")
    theirs(check, "few rows", SMALL, prompt_ids(SMALL, 16), 4, cache)
    assert seen == {{"static": "StaticCache", "dynamic": "DynamicCache"}[cache]}
    assert check.rows()[0]["name"] == f"transformers, {cache} cache, few rows" and check.rows()[0]["value"] > 0


def test_a_first_and_a_second_save_stand_beside_a_first_and_a_second(tmp_path: Path) -> None:
    check = Check(torch.device("cpu"), True, tmp_path, "checkpoint")
    checkpoint(check)
    stalls = [row["name"] for row in check.rows() if row["unit"] == "ms"]
    assert stalls == ["first save: stall", "second save: stall", "first torch.save: stall", "second torch.save: stall"]
