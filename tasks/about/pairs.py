"""What a stage that learns from pairs says of them beforehand: files that can be read, prompts that leave room, lengths."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from lm.inputs.hashed import hashed_files
from lm.model import ModelConfig
from lm.pairs.base import SkippedRow
from lm.pairs.files import Files, dialogues_in
from lm.pairs.weak import Weak
from tasks.about.finding import Finding
from tasks.about.problem_lengths import check_room, check_split, conversation_lengths
from tasks.about.sections import Sections
from tasks.about.shrink import Params, rows
from tasks.about.training import check_shards
from tasks.core.config import ConfigError

# Rows that may be unusable at the front of a file before it is said to have none.
ROWS_TRIED = 1000
TOY_ROWS, TOY_FOLDER = 24, "preferences"


def check_pairs(stage: str, sections: Sections) -> Iterator[Finding]:
    """Two rows a pair divide into the stage's shards; problems that are asked leave room for answers."""
    config = sections[stage]
    yield from check_shards(f"{stage}.batch", config, 2 * config.batch, together=2)
    for source in config.pairs:
        if source.samples_model:
            yield from check_split(config.problems, source.split, sections.shape(stage).vocab_size)
            key, splits = f"{stage}.pairs: max_new_tokens", (source.split,)
            yield from check_room(key, config.problems, splits, source.max_new_tokens, sections, stage)


def check_files(stage: str, sections: Sections) -> Iterator[Finding]:
    """There are files where some are asked for, and one of the first rows of each is a pair; and a weaker model where one is
    asked for."""
    config = sections[stage]
    for source in config.pairs:
        if isinstance(source, Files):
            yield from trouble_of(source, f"{stage}.pairs", Path(config.folder))
        elif isinstance(source, Weak):
            try:
                source.read(f"{stage}.pairs", Path(config.folder))
            except ConfigError as error:
                where, _, what = str(error).partition(": ")
                yield Finding(f"params.yaml: {where}", what)


def trouble_of(source: Files, slot: str, folder: Path) -> Iterator[Finding]:
    """Why a file cannot be used, each by itself; nothing where all can."""
    try:
        listed = source.listed(slot, folder, hashed_files(folder))
    except ConfigError as error:
        where, _, what = str(error).partition(": ")
        yield Finding(f"params.yaml: {where}", what)
        return
    for path in listed:
        reason = "empty"
        for found in islice(dialogues_in(path, folder), ROWS_TRIED):
            if not isinstance(found, SkippedRow):
                break
            reason = found.reason
        else:
            yield Finding(str(path), f"not one usable row among the first {ROWS_TRIED} ({reason})", "mend the file")


def lengths_of(stage: str, source: Any, problems: Any, shape: ModelConfig) -> tuple[int, int]:
    """(tokens of the longest prompt and answer together, of the answer). Of files as many as the context has, with answers that
    have half of them: nobody has read them yet. Raises ConfigError where no prompt fits the context."""
    if not source.samples_model:
        return shape.context, shape.context // 2
    known = conversation_lengths(problems, source.split, shape.vocab_size)
    fitting = [prompt for prompt, _ in known if prompt + source.max_new_tokens <= shape.context]
    if not fitting:
        raise ConfigError(
            f"{stage}.pairs: max_new_tokens: no prompt fits the context of {shape.context} less {source.max_new_tokens}"
        )
    return max(fitting) + source.max_new_tokens, source.max_new_tokens


def toy_pairs(section: Params, folder: Path) -> Params:
    """What of a section is otherwise in the toy run: two steps over the few pairs that `write_toy_pairs` writes. A toy
    model answers nothing right, so that nothing could be mined."""
    held_out = min(section.get("held_out_fraction", 0.05), 0.5)
    few = {"pairs": [{"name": "files"}], "folder": str(folder / TOY_FOLDER), "held_out_fraction": held_out}
    return {"steps": 2, "batch": rows(section, 2), "compile": "off", **few}


def write_toy_pairs(folder: Path) -> None:
    """Write the file of pairs of the toy run, with prompts enough for some on both sides of what is held out."""
    (folder / TOY_FOLDER).mkdir(parents=True, exist_ok=True)
    found = ({"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": str(n + 2)} for n in range(TOY_ROWS))
    (folder / TOY_FOLDER / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
