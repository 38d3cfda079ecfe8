"""Preference in the toy run."""

import json
from pathlib import Path

from tasks.about.shrink import Params, rows

# A toy model answers nothing right, so what would be mined is read; prompts enough for some on both sides of what is held out.
ROWS = 24
FOLDER = "preferences"


def toy(params: Params, folder: Path) -> Params:
    """Two steps over few pairs, of a file."""
    section = params["preference"]
    held_out = min(section.get("held_out_fraction", 0.05), 0.5)
    few = {"pairs": [{"name": "files"}], "folder": str(folder / FOLDER), "held_out_fraction": held_out}
    return {"steps": 2, "batch": rows(section, 2), "compile": "off", **few}


def inputs(params: Params, folder: Path) -> Params:
    """Section of the toy run, once its file is made."""
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    found = ({"prompt": f"{n}+1=", "chosen": str(n + 1), "rejected": str(n + 2)} for n in range(ROWS))
    (folder / FOLDER / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return toy(params, folder)
