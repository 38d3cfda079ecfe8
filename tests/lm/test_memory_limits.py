"""Limits of control groups, in trees of files as Linux lays them out, version 1 and 2."""

from pathlib import Path

import pytest

from lm.memory_limits import memory_limits
from tests.control_groups import FILES, NO_LIMIT, make_control_groups

MIB = 1 << 20


@pytest.mark.parametrize("kind", FILES)
def test_the_groups_above_limit_too(kind: str, tmp_path: Path) -> None:
    limits = {"/": 9 * MIB, "/pod": 3 * MIB, "/pod/stage": 5 * MIB, "/pod/stage/below": MIB, "/elsewhere": MIB}
    make_control_groups(tmp_path, kind, "/pod/stage", limits)
    assert memory_limits(tmp_path) == [9 * MIB, 3 * MIB, 5 * MIB]


@pytest.mark.parametrize("kind", FILES)
def test_no_limit_is_none(kind: str, tmp_path: Path) -> None:
    make_control_groups(
        tmp_path, kind, "/pod/stage", {"/": NO_LIMIT[kind], "/pod": 3 * MIB, "/pod/stage": NO_LIMIT[kind]}
    )
    assert memory_limits(tmp_path) == [3 * MIB]
    (tmp_path / "sys/fs/cgroup/x/pod" / FILES[kind]).write_text("18446744073709551615\n")  # -1, as some write it
    assert memory_limits(tmp_path) == []


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    ("place", "mounted"),
    [("/docker/1f/init", "/docker/1f"), ("/docker/1f", "/"), ("/", "/docker/1f"), ("/../init", "/"), ("/", "/")],
)
def test_a_container_sees_its_own_group_as_the_top(kind: str, place: str, mounted: str, tmp_path: Path) -> None:
    """With and without a namespace of its own: the name that its group has outside is not under the mount point."""
    make_control_groups(tmp_path, kind, place, {"/": 7 * MIB}, mounted)
    assert memory_limits(tmp_path) == [7 * MIB]


def test_a_group_of_a_container_is_found_under_the_containers(tmp_path: Path) -> None:
    make_control_groups(tmp_path, "cgroup2", "/docker/1f/init", {"/": 7 * MIB, "/init": 6 * MIB}, "/docker/1f")
    assert memory_limits(tmp_path) == [7 * MIB, 6 * MIB]


def test_both_versions_at_once(tmp_path: Path) -> None:
    """A hybrid machine: memory is limited by version 1, and version 2 is mounted without it."""
    make_control_groups(tmp_path, "cgroup", "/user", {"/user": 4 * MIB}, point="/sys/fs/cgroup/memory")
    make_control_groups(tmp_path, "cgroup2", "/", {}, point="/sys/fs/cgroup/unified")
    assert memory_limits(tmp_path) == [4 * MIB]


def test_a_machine_without_groups_has_no_limits(tmp_path: Path) -> None:
    assert memory_limits(tmp_path) == []
    make_control_groups(tmp_path, "cgroup2", "/pod", {"/pod": "not a number"})
    assert memory_limits(tmp_path) == []
