"""Everything that reads a folder of the user's, each with the files that it would read of one.

`tests/test_architecture.py` holds the list to the code: who asks what DVC hashes is in it, and who lists a folder otherwise is
not about the user's.
"""

from collections.abc import Callable
from pathlib import Path

from lm.conversations.files import ENDINGS, files_of
from lm.inputs.hashed import check_is_hashed, folders_in, hashed_files
from lm.inputs.text import LINES
from lm.pairs.files import Files
from lm.problems.gsm8k import Gsm8k
from tasks.dedup.engine import reference_texts
from tasks.filter.engine import examples
from tasks.ingest.sources import Jsonl, TextFolder

Reads = Callable[[Path], list[Path]]
Wanted = Callable[[str], bool]


def problems(folder: Path) -> list[Path]:
    return Gsm8k(folder=str(folder))._files()[1]


def named(*endings: str) -> Wanted:
    return lambda name: name.endswith(endings)


# By its file: what is read of a folder, and which of the names that DVC hashes there are meant.
FILES: dict[str, tuple[Reads, Wanted]] = {
    "lm/problems/folder.py": (problems, lambda name: "/" not in name and name.endswith(LINES)),
    "lm/conversations/files.py": (lambda folder: files_of(folder, folder), named(*ENDINGS)),
    "tasks/reward/stage.py": (
        lambda folder: Files().listed("reward.pairs", folder, hashed_files(folder)),
        named(*ENDINGS),
    ),
    "tasks/preference/prepared.py": (
        lambda folder: Files().listed("preference.pairs", folder, hashed_files(folder)),
        named(*ENDINGS),
    ),
    "tasks/dedup/engine/reference_texts.py": (
        reference_texts.files_of,
        lambda name: name.endswith(reference_texts.ENDINGS) and not Path(name).name.startswith("."),
    ),
    "tasks/filter/engine/examples.py": (examples.files_of, named(*examples.SUFFIXES)),
    "tasks/rl/stage.py": (hashed_files, named("")),
}
# By its file: the folders that are read in a folder.
FOLDERS: dict[str, Callable[[Path], list[Path]]] = {"tasks/distill/teachers/ensemble.py": folders_in}
# By its file: what refuses a place that params name in a folder.
PLACES: dict[str, Callable[[Path, Path], None]] = {
    "tasks/core/config.py": check_is_hashed,
    "lm/strategies/assistants.py": check_is_hashed,
    "lm/pairs/weak.py": check_is_hashed,
}
# By their files: sources of ingest, which leave out what they say they do, links among it.
SOURCES = {"tasks/ingest/sources/files.py": Jsonl, "tasks/ingest/sources/text_folder.py": TextFolder}
# Who asks beside them: ingest to say what is left out, and for the files that a library says are a data set.
BESIDE = {"tasks/ingest/stage.py", "tasks/ingest/sources/hugging_face.py"}
# Who lists a folder without asking what DVC hashes, and why he may.
LISTS = {
    "lm/chat.py": "answers that a stage wrote",
    "lm/hugging_face/export.py": "the folder that is written",
    "lm/hugging_face/folder.py": "says what a folder is that is no model",
    "lm/hugging_face/load.py": "says what a folder is that is no model",
    "lm/hugging_face/merge.py": "a command of its own, no stage",
    "lm/inputs/hashed.py": "this is who is asked",
    "lm/sandbox/launcher.py": "processes",
    "lm/strategies/assistants.py": "looks whether a model that is kept has changed",
    "lm/training/checkpoint/checkpoints.py": "a stage's scratch",
    "lm/training/trunks/store.py": "the store of trunks",
    "tasks/core/jit.py": "compiled code of ours",
    "tasks/core/tables.py": "what a stage wrote",
    "tasks/ingest/runs.py": "a stage's scratch",
    "tasks/ingest/sources/files.py": "a pattern, of what DVC hashes",
    "tasks/ingest/sources/stdlib.py": "Python's library",
}
