"""`tokenmill merge`: a model with an adapter of peft in its weights.

make merge MODEL=data/pretrain ADAPTER=adapter TO=merged; lm/hugging_face/merge.py says what an adapter may be.
"""

import argparse
import sys
from pathlib import Path

from lm.hugging_face.merge import merge
from tasks.runner.answer import add_json_option, print_json


def main() -> int:
    """The exit code: 2 for a folder that cannot be read or written, or does not fit."""
    parser = argparse.ArgumentParser(prog="tokenmill merge", description=__doc__)
    parser.add_argument("model", type=Path, help="a model folder, such as data/pretrain, or one of Hugging Face")
    parser.add_argument("adapter", type=Path, help="a folder with adapter_config.json and adapter_model.safetensors")
    parser.add_argument("target", type=Path, help="the folder to write: one that is not there, or empty")
    add_json_option(parser)
    given = parser.parse_args()
    try:
        changed = merge(given.model, given.adapter, given.target)
    except (ValueError, OSError) as error:
        print(f"merge: {error}", file=sys.stderr)
        return 2
    if given.json:
        print_json({"target": given.target, "model": given.model, "adapter": given.adapter, "matrices": changed})
    else:
        print(f"{given.target}: {given.model} with {changed} matrices changed by {given.adapter}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
