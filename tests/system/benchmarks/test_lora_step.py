"""Both arms of the LoRA step learn the same, step by step, in processes of their own."""

from pathlib import Path

from benchmarks.lora_step import gate
from benchmarks.subprocess_arm import subprocess_arm
from tests.benchmarks.lora_folder import BATCH, TIMED, WARM, small_bench


def test_both_arms_have_the_same_losses(tmp_path: Path) -> None:
    folder = small_bench(tmp_path)
    given = {"folder": str(folder), "threads": 1, "batch": BATCH, "warm": WARM, "timed": TIMED}
    ours, peer = (
        subprocess_arm(name, f"benchmarks.{function}", **given).measure()
        for name, function in (("ours", "lora_step:ours"), ("peft", "lora_peers:peft_trainer"))
    )
    assert gate(ours.answer, peer.answer) == "" and len(ours.answer) == WARM + TIMED
    for sample in (ours, peer):
        assert sample.values["completion_tokens_per_second"] > 0 and sample.values["peak_memory_bytes"] > 0
