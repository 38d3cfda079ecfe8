"""What we say that DVC hashes, and what the sources of ingest read, against what DVC hashes."""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.fs import localfs
from dvc.ignore import DvcIgnoreFilter
from dvc.repo import Repo
from dvc_data.hashfile.build import build
from hypothesis import given
from hypothesis import strategies as st

from lm.inputs.hashed import FOREIGN, LINK, IgnorePatterns, read_ignored, scan_dependency
from tasks.core.config import ConfigError
from tasks.ingest.sources import Jsonl, TextFolder
from tasks.ingest.stage import say_left_out
from tasks.runner.key import path_md5
from tests.core.readers import FILES, FOLDERS, PLACES
from tests.project import ROOT

ODD = [
    *[
        "a.txt",
        "test_a.py",
        "bench_b.py",
        "x.pyc",
        "__pycache__",
        ".venv",
        ".scratch",
        "mlflow",
        "store",
        "kernels",
        "deep-er.txt",
    ],
    *[
        ".git",
        ".hg",
        ".gitignore",
        ".hidden.txt",
        ".dvc",
        ".dvcignore",
        "dvc.yaml",
        "big.dvc",
        ".variants",
        "tests",
        "data",
        "deep",
    ],
    *[
        "#a",
        "!b",
        "[ab]",
        "a*",
        "?",
        "back\\slash",
        " lead",
        "trail ",
        "new\nline",
        "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
        "-r",
    ],
    *[
        "cafe\N{COMBINING ACUTE ACCENT}",
        "\N{SNOWMAN}",
        "\N{MATHEMATICAL BOLD CAPITAL A}",
        "~",
        "$HOME",
        "${x}",
        "%2e",
        "...",
        "a" * 200,
    ],
]
NAMES = st.sampled_from(ODD) | st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=8
)
SAFE = NAMES.filter(lambda name: name not in (".", "..") and len(name.encode()) < 255)
ENTRIES = st.tuples(
    st.lists(SAFE, min_size=1, max_size=4),
    st.sampled_from(["file", "lines", "lines", "lines", "folder", "to file", "to folder"]),
)
# Ours, and what a user might add.
PATTERNS = st.sampled_from(
    ["", "*.pyc\n", "deep/\n!deep/a.txt\n", "/*/in/**/test_*.py\n", "in/de*\n", "# no\n\n  a*  \n", "*.txt\n!a.txt\n"]
)


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    folder = tmp_path_factory.mktemp("repo")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    with Repo.init(str(folder)) as made:
        yield made


def make(folder: Path, elsewhere: Path, entries: list[tuple[list[str], str]]) -> None:
    """Whatever of these entries can stand together; links lead to a file and to a folder elsewhere. lines: a file with the
    ending that every reader reads."""
    folder.mkdir(parents=True)
    for parts, kind in entries:
        path = folder.joinpath(*parts)
        try:
            (path if kind == "folder" else path.parent).mkdir(parents=True, exist_ok=True)
            if kind.startswith("to "):
                path.symlink_to(elsewhere / "there.txt" if kind == "to file" else elsewhere)
            elif kind == "lines":
                path.with_name(f"{path.name[:90]}.jsonl").write_text("text of " + "/".join(parts))
            elif kind == "file" and not path.exists():
                path.write_text("text of " + "/".join(parts))
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue


def by_dvc(repo: Repo, path: Path) -> tuple[str, list[str]]:
    """DVC's md5 of a folder, and the names that it hashes."""
    patterns = DvcIgnoreFilter(localfs, repo.root_dir)  # the repository's own remembers what .dvcignore said before
    _, _, tree = build(repo.cache.local, str(path), localfs, "md5", ignore=patterns, dry_run=True)
    return tree.hash_info.value, sorted(entry["relpath"] for entry in tree.as_list())


@given(entries=st.lists(ENTRIES, max_size=12), patterns=PATTERNS, inside=st.booleans(), absolute=st.booleans())
def test_what_is_hashed_and_read_is_what_dvc_hashes_or_it_is_refused_by_name(
    repo: Repo, entries: list[tuple[list[str], str]], patterns: str, inside: bool, absolute: bool
) -> None:
    root = Path(repo.root_dir)
    (root / ".dvcignore").write_text((ROOT / ".dvcignore").read_text() + patterns)
    with (
        tempfile.TemporaryDirectory(dir=root if inside else None) as top,
        tempfile.TemporaryDirectory() as spare,
        chdir(root),
    ):
        (Path(spare) / "there.txt").write_text("from elsewhere")
        place = Path(top).resolve() / "in"
        make(place, Path(spare), entries)
        path = place if absolute else Path(os.path.relpath(place))
        foreign = {*FOREIGN} if inside else {".dvcignore"}
        standing = {name for _, folders, files in os.walk(place) for name in (*folders, *files)}
        try:
            found = scan_dependency(path, read_ignored())
        except ConfigError as error:
            refused = Path(str(error).partition(": ")[0]).name
        else:
            refused = ""
        if refused:
            assert refused in foreign & standing
            return
        md5, names = by_dvc(repo, place)
        assert sorted(file.relative_to(path).as_posix() for file in found.files) == names
        assert path_md5(path, read_ignored()) == md5
        assert not {file.relative_to(path).as_posix() for file in (*found.ignored, *found.links)} & {*names}
        source = TextFolder(pattern="*")
        if names:
            assert [file.name for file in source.files(str(path))] == names
        else:
            with pytest.raises(ConfigError, match="no file matches"):
                source.files(str(path))
        check_readers(path, names, found.links)


def asked(question: Callable[[], object]) -> tuple[object, str]:
    """(answer, ""), or (None, what it was refused with)."""
    try:
        return question(), ""
    except ConfigError as error:
        return None, str(error)


def check_readers(path: Path, names: list[str], links: list[Path]) -> None:
    """Every reader reads what DVC hashes of a folder, these names, as far as it means them, or refuses a link in it by name."""
    refusals = {f"{link} {LINK}" for link in links}
    for reader, (read, means) in FILES.items():
        meant = sorted(path / name for name in names if means(name))
        found, said = asked(lambda read=read: read(path))
        assert said in refusals if links else found == meant or not (found or meant), (reader, said)
    above = {name.partition("/")[0] for name in names if "/" in name}
    for reader, folders in FOLDERS.items():
        found, said = asked(lambda folders=folders: {folder.name for folder in folders(path)})
        assert said in refusals if links else above <= found <= {each.name for each in path.iterdir()}, (reader, said)
    places = [Path(at, name) for at, _, files in os.walk(path, followlinks=True) for name in files]
    for reader, check in PLACES.items():
        seen = [place for place in places if not asked(lambda place=place, check=check: check(place, path))[1]]
        assert sorted(seen) == sorted(path / name for name in names), reader


@pytest.mark.parametrize("reader", FILES)
def test_a_link_that_dvc_ignores_is_passed_over(tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvcignore").write_text("*.tmp\n/data/notes\n")
    for name in ("data", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text("{}")
    for name, to in {"b.tmp": "elsewhere/a.jsonl", "notes": "elsewhere", ".git": "elsewhere"}.items():
        (tmp_path / "data" / name).symlink_to(tmp_path / to)
    read, _ = FILES[reader]
    assert read(Path("data")) == [Path("data/a.jsonl")]
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=f"^data/linked {LINK}"):
        read(Path("data"))


@pytest.mark.parametrize("reader", FILES)
def test_a_folder_that_dvc_ignores_is_refused(tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC hashes it as if it were empty, so that no change of it would be seen."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    for name in (".scratch/in", ".scratch/in/deep", "data"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.jsonl").write_text("{}")
    read, means = FILES[reader]
    for folder in (Path(".scratch/in"), tmp_path / ".scratch/in"):
        with pytest.raises(ConfigError, match=rf"^{folder} is ignored by \.dvcignore, so DVC would not see it change"):
            read(folder)
    assert means("a.jsonl") and read(Path("data")) == [Path("data/a.jsonl")]


def test_a_place_that_dvc_does_not_see_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    for name in (".git", "inner/.dvc", "plain", "../elsewhere"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    said = {
        ".git": "is ignored by",
        "inner/deep": r"inner/\.dvc: DVC skips a folder",
        "link": "is a link to a folder, behind which",
        "link/deep": r"data/link is a link to a folder",
    }
    for name, words in said.items():
        for check in PLACES.values():
            with pytest.raises(ConfigError, match=words):
                check(Path("data", name), Path("data"))
    for check in PLACES.values():
        check(Path("data/plain"), Path("data"))


NUISANCES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a link to nothing": (
        lambda path: path.symlink_to("someone@host.12:34"),
        "a link to someone@host.12:34, which is no file",
    ),
    "a link to itself": (lambda path: path.symlink_to(path.name), "which is no file"),
    "a pipe": (os.mkfifo, "neither a file nor a folder"),
}


@pytest.mark.parametrize("kind", NUISANCES)
def test_what_dvc_cannot_hash_is_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    put, words = NUISANCES[kind]
    put(tmp_path / "odd.txt")
    line = rf"odd\.txt: .*{re.escape(words)}, so DVC cannot hash it: remove it$"
    with pytest.raises(ConfigError, match=line):
        scan_dependency(tmp_path, IgnorePatterns(tmp_path, []))
    for read, _ in FILES.values():
        with pytest.raises(ConfigError, match=line):
            read(tmp_path)


def test_a_name_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("text")
    with pytest.raises(ConfigError, match=r"caf\\xe9\.txt: a name that is not UTF-8, which DVC cannot keep: rename it"):
        scan_dependency(tmp_path, IgnorePatterns(tmp_path, []))


def test_what_lies_in_a_project_inside_this_one_is_refused(tmp_path: Path) -> None:
    """DVC hashes such a folder as if it were empty."""
    (tmp_path / "outer" / "inner" / "in").mkdir(parents=True)
    (tmp_path / "outer" / "inner" / "in" / "a.txt").write_text("text")
    (tmp_path / "outer" / ".dvc").mkdir()
    for folder in (".", "outer", "outer/inner", "outer/inner/in"):
        with pytest.raises(ConfigError, match=r"outer/\.dvc: DVC skips a folder that is a DVC project of its own"):
            scan_dependency(tmp_path / folder, IgnorePatterns(tmp_path, []))
    assert len(scan_dependency(tmp_path / "outer", IgnorePatterns(tmp_path / "outer", [])).files) == 1


def test_sources_leave_out_what_dvc_does_and_say_so(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    for name in ("test_a.py", ".git/b.py", "sub/.hg/c.py", "sub/d.py", ".hidden.py"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "x"}')
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "in" / "sub")
    expected = [".hidden.py", "sub/d.py", "test_a.py"]
    assert [file.name for file in TextFolder(pattern="*.py").files("in")] == expected
    assert [file.name for file in Jsonl(path="**/*.py").files("in")] == expected
    say_left_out("in")
    assert "in: 3 not read, since DVC does not look into them: .git, linked, sub/.hg\n" in capsys.readouterr().out
    for source in (Jsonl(path="linked/*.py"), TextFolder(path="linked", pattern="*.py")):
        with pytest.raises(ConfigError, match="in/linked is a link to a folder, behind which DVC does not look"):
            source.files("in")
