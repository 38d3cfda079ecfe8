"""One text of a value, the same for values that are equal: what a function returned in a sandbox and what a test expects are
compared by it, so that nothing of the sandbox's values gets out of it. Its source is run there, too, and imports nothing."""

DEEPEST = 50


def canonical(value: object, depth: int = 0) -> str:
    """Text of None, a truth value, a number, a text, or of lists, tuples, sets and dicts of such. Equal numbers have one: 1,
    1.0 and True; a list and a tuple differ. Raises ValueError for another value, and for one of more than DEEPEST levels."""

    def inner(part: object) -> str:
        return canonical(part, depth + 1)

    if depth > DEEPEST:
        raise ValueError("too deep")
    if value is None:
        return "none"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return f"number {int(value)}"
    if isinstance(value, float | complex):
        return f"number {value!r}"
    if isinstance(value, str):
        return f"text {str(value)!r}"
    if isinstance(value, bytes | bytearray):
        return f"bytes {bytes(value)!r}"
    if isinstance(value, list | tuple):
        return f"{'list' if isinstance(value, list) else 'tuple'}({', '.join(map(inner, value))})"
    if isinstance(value, set | frozenset):
        return f"set({', '.join(sorted(map(inner, value)))})"
    if isinstance(value, dict):
        return f"dict({', '.join(sorted(f'{inner(key)}: {inner(part)}' for key, part in value.items()))})"
    raise ValueError(f"no value of {type(value).__name__}")
