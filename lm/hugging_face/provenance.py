"""What exported weights were made of, in a file beside them: their own digest, and that of the model that they are.

lm/hugging_face/export.py writes it; flows/card holds an export to the pipeline by it.
"""

import hashlib
import json
from pathlib import Path

from lm.files import write_json
from lm.hugging_face.load import files_of

FILE = "made_of.json"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(folder: Path) -> str:
    """sha256 of the weights of a model folder: of their one file, or of a line a file, its own digest, in the order of their
    names. Raises ValueError naming what is missing."""
    digests = [sha256_of(folder / name) for name in files_of(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def read_provenance(folder: Path) -> dict[str, tuple[str, str]]:
    """(its own digest, that of the model that it was made of) of each file of weights; none where nothing says so. Raises
    ValueError naming the file where it is none of ours."""
    path = folder / FILE
    try:
        return {name: (said["sha256"], said["of"]) for name, said in json.loads(path.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: does not say what weights were made of: {type(error).__name__} {error}") from None


def write_provenance(folder: Path, names: list[str], source: Path) -> None:
    """Say of these files of weights that they were made of the model in `source`, and of others that are there still what was
    said of them. The same files give the same bytes."""
    try:
        before = read_provenance(folder)
    except ValueError:
        before = {}
    of = digest_of(source)
    said = {name: told for name, told in before.items() if (folder / name).is_file()}
    said |= {name: (sha256_of(folder / name), of) for name in names}
    write_json(folder / FILE, {name: {"sha256": told[0], "of": told[1]} for name, told in said.items()})
