"""What people read: each page of docs/ begins with the commands that one types, and README's map has every folder."""

import re
from pathlib import Path

import pytest

from tasks.runner.git import run_git
from tests.project import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
MADE = {"claims.md"}  # by `make claims`, as its first lines say
COMMAND = re.compile(r"^(?: {4})?(?:[A-Z_]+=\S+ )*(?:make|tokenmill|python -m|pytest|dvc|torchrun) ?", re.M)


def opening(text: str) -> list[str]:
    """The title of a page, and the two pieces after it."""
    return re.split(r"\n\s*\n", text.strip(), maxsplit=3)[:3]


def begins_with_commands(text: str) -> bool:
    """Whether a block with a command stands before the second paragraph."""
    return any(piece.startswith(("```\n", "    ")) and COMMAND.search(piece) for piece in opening(text)[1:])


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in MADE], ids=lambda page: page.stem)
def test_a_page_begins_with_the_commands_one_types(page: Path) -> None:
    assert begins_with_commands(page.read_text()), f"{page.name}: a block of commands before its second paragraph"


def test_what_is_no_command_or_comes_late_does_not_count() -> None:
    block = "```\nTOKENMILL_RANKS=4 make pipeline   # so many\n```"
    assert begins_with_commands(f"# A\n\n{block}\n\nb") and begins_with_commands(f"# A\n\nb\n\n{block}\n\nc")
    assert not begins_with_commands(f"# A\n\nb\n\nc\n\n{block}")
    assert not begins_with_commands("# A\n\n```yaml\nmake: x\n```\n\nb") and not begins_with_commands(
        "# A\n\nmake it\n\nb"
    )


def test_the_readme_is_short_and_its_map_has_every_folder() -> None:
    text = (ROOT / "README.md").read_text()
    [table] = re.findall(r"^## Where things are\n+((?:\|.*\n)+)", text, re.M)
    listed = run_git(ROOT, "ls-files", "-z").stdout.split("\0")
    folders = {Path(name).parts[0] for name in listed if "/" in name and not name.startswith(".")}
    named = set(re.findall(r"`(\w+)/`", table))
    assert named == folders and text.count("\n") <= 120
