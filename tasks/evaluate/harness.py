"""Tasks of evaluation as lm-evaluation-harness reads them, for a score that a stranger can check.

    python -m tasks.evaluate.harness FOLDER

FOLDER gets a YAML file and the questions of each of evaluate.tasks of params.yaml that has a file; then, in it,
`lm_eval --model hf --model_args pretrained=EXPORTED --include_path . --tasks NAME`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from lm.config import ConfigError
from lm.files import write_text
from tasks.core.config import load, read_params
from tasks.evaluate.stage import EvaluateConfig
from tasks.evaluate.tasks import Choices
from tasks.evaluate.tasks.choices import read


def described(task: Choices) -> dict[str, Any]:
    """The task's YAML, whose files are beside it."""
    before, after = task.template.split("{question}")
    files = {"test": f"{task.label}.jsonl", **({"shots": f"{task.label}.shots.jsonl"} if task.shots else {})}
    shots = {"fewshot_split": "shots", "fewshot_config": {"sampler": "first_n"}} if task.shots else {}
    return {
        "task": task.label,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        **shots,
        "num_fewshot": task.shots,
        "output_type": "multiple_choice",
        "doc_to_text": before + "{{question}}" + after,
        "doc_to_choice": "choices",
        "doc_to_target": "right",
        "target_delimiter": " ",
        "fewshot_delimiter": "\n\n",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")
        ],
    }


def write(task: Choices, folder: Path) -> None:
    """Write the task's YAML and its questions, the place of the right choice as `right`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path, name in [(Path(task.file), f"{task.label}.jsonl")] + [(task.shots_file, f"{task.label}.shots.jsonl")] * (
        task.shots > 0
    ):
        rows = [{"id": each, "question": q.text, "choices": q.choices, "right": q.right} for each, q in read(path)]
        write_text(folder / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(folder / f"{task.label}.yaml", yaml.safe_dump(described(task), sort_keys=False, allow_unicode=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tasks.evaluate.harness", description=__doc__)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    try:
        write_all(given.folder)
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def write_all(folder: Path) -> None:
    """Write every task of params.yaml that has a file. Raises ConfigError where there is none, or it would write over one."""
    tasks = [each for each in load("evaluate", EvaluateConfig, read_params()).tasks if isinstance(each, Choices)]
    if not tasks:
        raise ConfigError("params.yaml: evaluate.tasks has no task with a file")
    for task in tasks:
        if folder.resolve() == Path(task.file).resolve().parent:
            raise ConfigError(f"{folder}: the questions themselves are there: name another folder")
        write(task, folder)
        print(f"{folder / task.label}.yaml")


if __name__ == "__main__":
    main()
