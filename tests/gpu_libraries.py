"""Libraries of a machine that has a GPU and torch, and little else: what is checked there may import no other."""

import re
import tomllib
from pathlib import Path

from tests.project import ROOT

# Of what this project depends on, all that the check may use; docs/gpu.md names the five that a machine with torch alone has not.
ALLOWED = {
    "fsspec", "httpx", "hypothesis", "jinja2", "networkx", "numpy", "pathspec", "psutil", "pyarrow", "pydantic", "pytest",
    "pytest-xdist", "pyyaml", "regex", "ruamel.yaml", "safetensors", "tokenizers", "torch", "tqdm",
    "transformers", "triton", "xxhash",
}  # fmt: skip
MODULES = {
    "fastwarc": "fastwarc",
    "pg8000": "pg8000",
    "py3langid": "py3langid",
    "prefect-dask": "prefect_dask",
    "dvc-s3": "dvc_s3",
}


def refused() -> list[str]:
    """Modules of the libraries that this project depends on and such a machine has not."""
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, groups = (
        whole["project"],
        [*whole["project"]["optional-dependencies"].values(), *whole["dependency-groups"].values()],
    )
    names = [name for group in groups for name in group if isinstance(name, str)] + project["dependencies"]
    plain = {re.split(r"[\[<>=; ]", name)[0] for name in names} - ALLOWED - {"tokenmill"}
    return sorted(MODULES.get(name, name) for name in plain)


def block_refused(folder: Path) -> dict[str, str]:
    """Environment of a Python process, and of all that it starts, in which no refused module can be imported; its start file
    is written to the folder."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({refused()}))\n")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}
