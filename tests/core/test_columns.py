"""Rows as lines in columns, by hand."""

from tasks.runner.columns import aligned


def test_names_stand_to_the_left_and_figures_to_the_right() -> None:
    assert aligned([["stage", "s"], ["sft", "12.5"], ["a"]]) == ["stage     s", "sft    12.5", "a"]


def test_columns_are_as_wide_as_asked_and_nothing_ends_in_white_space() -> None:
    rows = [["a", "b", ""], ["longer", "c"]]
    assert aligned(rows, left=[1], between=" | ", least=[4, 3]) == ["     a | b   |", "longer | c"]
    assert aligned([]) == [] and rows == [["a", "b", ""], ["longer", "c"]]
