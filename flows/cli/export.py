"""`tokenmill export`: a model as a folder of Hugging Face's format, or, where the target ends in .gguf, as a GGUF file.

make export MODEL=data/rl TO=exported, or TO=model.gguf FORMAT=q8_0.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from lm.checkpoint import load_model
from lm.hugging_face.export import save_hf
from lm.hugging_face.folder import advice
from lm.hugging_face.load import files_of
from lm.hugging_face.packed import packed_in
from lm.hugging_face.provenance import write_provenance
from lm.model_folder import read_model
from tasks.runner.answer import add_json_option, print_json


def main() -> int:
    """The exit code: 2 for a folder that cannot be read or written."""
    parser = argparse.ArgumentParser(prog="tokenmill export", description=__doc__)
    parser.add_argument(
        "model", type=Path, help="a model folder, such as data/rl; a quantized one comes out dequantized"
    )
    parser.add_argument("target", type=Path, help="a folder, or a file that ends in .gguf")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of a folder's weights: float32")
    parser.add_argument(
        "--packed", action="store_true", help="a quantized model as it is packed, in the format compressed-tensors"
    )
    parser.add_argument("--format", choices=["f16", "q8_0", "q4_0"], help="of a GGUF file's weights: f16")
    add_json_option(parser)
    given = parser.parse_args()
    is_gguf = given.target.suffix == ".gguf"
    try:
        if given.dtype if is_gguf else given.format:
            raise ValueError("--format goes with a target that ends in .gguf, and --dtype with a folder")
        if is_gguf and given.packed:
            raise ValueError("--packed goes with a folder: a GGUF file is packed by --format")
        found = as_gguf(given.model, given.target, given.format or "f16") if is_gguf else as_folder(given)
    except (ValueError, OSError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    if given.json:
        print_json({"target": given.target, **found})
    else:
        print(f"{given.target}: {export_summary(is_gguf, **found)}")
    return 0


def as_folder(given: argparse.Namespace) -> dict[str, Any]:
    """Write the folder. Returns its bytes and, of a model that stays packed, how many matrices do, of how many. Raises
    ValueError."""
    packed = packed_in(given.model) if given.packed else None
    dtype = getattr(torch, given.dtype or "float32")
    written = save_hf(*load_model(given.model), given.target, dtype, packed=packed)
    write_provenance(given.target, files_of(given.target), given.model)
    of = {} if packed is None else {"packed": written, "matrices": len(packed)}
    return {"bytes": sum(path.stat().st_size for path in given.target.iterdir()), **of}


def as_gguf(folder: Path, target: Path, chosen: Any) -> dict[str, Any]:
    """Write a model folder, ours or one of Hugging Face, as a GGUF file. Returns its bytes, and which matrices have 16 bits
    though others have fewer. Raises ValueError."""
    from lm.gguf.export import save_gguf

    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise ValueError(advice(folder))
    wider = save_gguf(*read_model(folder), target, chosen)
    write_provenance(target.parent, [target.name], folder)
    return {"bytes": target.stat().st_size, "wider": wider}


def export_summary(
    is_gguf: bool, bytes: int, packed: int = 0, matrices: int = 0, wider: list[str] | None = None
) -> str:
    """What was written, in words."""
    found = f"{bytes / 1e6:.1f} MB{', and a Modelfile beside it' if is_gguf else ''}"
    found += f", {packed} of {matrices} matrices packed" if matrices else ""
    return found + (f"; {len(wider)} matrices have 16 bits, since their rows are no multiple of 32" if wider else "")


if __name__ == "__main__":
    sys.exit(main())
