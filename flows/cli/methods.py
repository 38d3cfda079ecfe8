"""`tokenmill methods`: what can stand in each place of params.yaml, read from the stages' own configs; with a place or a stage,
what each of its methods is."""

import argparse
import sys
import textwrap
from collections.abc import Iterator
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from flows.params.places import Method, places
from lm.config import ConfigError
from tasks.runner.answer import add_json_option, print_json
from tasks.runner.graph import read_graph


def about(method: Method) -> str:
    """What a method's file says of it: the first paragraph of its docstring."""
    return " ".join((import_module(method.__module__).__doc__ or "").partition("\n\n")[0].split())


def chosen(found: dict[str, dict[str, Method]], asked: str) -> dict[str, dict[str, Method]]:
    """The places that a word asks for: one, or all below it. Raises ConfigError where there is none."""
    some = {key: methods for key, methods in found.items() if f"{key}.".startswith(f"{asked}.")}
    if not some:
        near = get_close_matches(asked, [*found, *{key.split(".")[0] for key in found}], n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"ROOM: no method can stand in {asked!r}{meant} (`tokenmill methods` lists the places)")
    return some


def in_short(found: dict[str, dict[str, Method]]) -> Iterator[str]:
    """Places that hold the same methods together, then the names of these."""
    alike = dict[tuple[tuple[str, Method], ...], list[str]]()
    for key, methods in found.items():
        alike.setdefault(tuple(methods.items()), []).append(key)
    for methods_of_all, keys in alike.items():
        yield from textwrap.wrap(" ".join(keys), 118)
        names = ", ".join(name for name, _ in methods_of_all)
        yield from textwrap.wrap(names, 118, initial_indent="    ", subsequent_indent="    ")


def in_full(found: dict[str, dict[str, Method]]) -> Iterator[str]:
    """Each place, and what each of its methods is."""
    for key, methods in found.items():
        yield key
        for name, method in methods.items():
            indent = {"initial_indent": f"    {name:<20} ", "subsequent_indent": " " * 25}
            yield from textwrap.wrap(about(method), 118, **indent)  # type: ignore[arg-type]


def main() -> int:
    """Exit code: 0, or 2 for a place that holds no methods."""
    parser = argparse.ArgumentParser(prog="tokenmill methods", description=__doc__)
    parser.add_argument("room", nargs="?", help="a place, as pretrain.optimizer, or a stage; all when absent")
    add_json_option(parser)
    asked = parser.parse_args()
    try:
        found = places(dict.fromkeys(entry.name for entry in read_graph(Path.cwd()).values()))
        found = chosen(found, asked.room) if asked.room else found
    except ConfigError as error:
        print(f"methods: {error}", file=sys.stderr)
        return 2
    if asked.json:
        print_json({key: {name: about(each) for name, each in methods.items()} for key, methods in found.items()})
    else:
        print(*(in_full(found) if asked.room else in_short(found)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
