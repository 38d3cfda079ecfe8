"""What a folder that should be a Hugging Face model is instead."""

import re
from pathlib import Path


def advice(folder: Path) -> str:
    """What to do about a folder that is no Hugging Face model, by what it looks like."""
    name = folder.as_posix()
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        into = f"models/{name}"
        return (
            f"if it is a model of the hub, `hf download {name} --local-dir {into}` brings it, and {into} is its folder"
        )
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "dataset_info.json" in there or "dataset_dict.json" in there:
        return f"{folder} is a data set that save_to_disk of the library datasets wrote, and no model"
    if "adapter_config.json" in there:
        return (
            f"{folder} is an adapter: `make merge MODEL=<its model> ADAPTER={folder} TO=merged` makes a model of both"
        )
    if any(name.endswith(".gguf") for name in there):
        return f"{folder} holds GGUF, which is not read: take the model's folder with safetensors"
    return f"is {folder} a model folder, and has what writes it run?"
