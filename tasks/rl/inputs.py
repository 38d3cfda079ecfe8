"""The user's own reward functions: their files are there, are Python, and have a function of the name. And a sandbox, where
there are programs to run."""

import ast
from collections.abc import Iterator
from pathlib import Path

from lm.sandbox.run import mode
from tasks.about.finding import Finding
from tasks.about.sections import Sections
from tasks.core.config import ConfigError
from tasks.rl.environments import Python
from tasks.rl.rewards import Function


def inputs(sections: Sections) -> Iterator[Finding]:
    """What is wrong with them."""
    if isinstance(sections["rl"].environment, Python):
        try:
            mode()
        except ConfigError as error:
            yield Finding("params.yaml: rl.environment", str(error), "take another environment, or another machine")
    for place, part in enumerate(sections["rl"].rewards):
        if isinstance(part, Function) and (wrong := trouble_of(Path(part.file), part.function)):
            yield Finding(f"params.yaml: rl.rewards.{place}.file: {part.file}", wrong, "put the file there, or mend it")


def trouble_of(path: Path, name: str) -> str | None:
    """Why the file has no such function; None where it has one, or may have one that it imports or makes."""
    try:
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (SyntaxError, ValueError) as error:
        return f"is no Python: {' '.join(str(error).split())}"
    bound = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    bound |= {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return None if name in bound or "*" in bound else f"has no function {name}"
