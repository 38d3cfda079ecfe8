"""The rows of files of pairs: a prompt, a better and a worse answer to it, as texts or as messages."""

from typing import Any

# Keys of a message, as chat data has them.
ROLE, CONTENT = "role", "content"


def texts_of(row: Any) -> tuple[str, str, str] | str:
    """(prompt, chosen, rejected), or the reason for which the row has none.

    `chosen` and `rejected` are an answer's text, a list of the one assistant message, or the whole conversation: the user's
    message and the answer, which need not have `prompt` beside it. `prompt` is a text or a list of the one user message.
    """
    if not isinstance(row, dict):
        return "not_an_object"
    missing = [name for name in ("chosen", "rejected") if row.get(name) is None]
    if missing:
        return f"missing_{missing[0]}"
    prompts, answers = list[str](), list[str]()
    if row.get("prompt") is not None:
        found = turns_of(row["prompt"], ("user",))
        if isinstance(found, str):
            return f"prompt_{found}"
        prompts += found
    for name in ("chosen", "rejected"):
        found = turns_of(row[name], ("assistant",), ("user", "assistant"))
        if isinstance(found, str):
            return f"{name}_{found}"
        answers.append(found[-1])
        prompts += found[:-1]
    if not prompts:
        return "missing_prompt"
    if len(set(prompts)) > 1:
        return "prompts_differ"
    if not prompts[0].strip():
        return "empty_prompt"
    if answers[0] == answers[1]:
        return "answers_are_the_same"
    return prompts[0], answers[0], answers[1]


def turns_of(value: Any, *roles: tuple[str, ...]) -> list[str] | str:
    """Texts of a list of messages whose roles are one of these, or of a text alone; else what is wrong with it."""
    if isinstance(value, str):
        return [value] if is_text(value) else "is_not_a_text"
    if not isinstance(value, list):
        return "is_not_a_text"
    if not all(isinstance(turn, dict) and isinstance(turn.get(ROLE), str) for turn in value):
        return "has_no_roles"
    if tuple(turn[ROLE] for turn in value) not in roles:
        return "is_not_one_turn"
    texts = [turn.get(CONTENT) for turn in value]
    return texts if all(map(is_text, texts)) else "is_not_a_text"


def is_text(value: Any) -> bool:
    """Whether it is a string that UTF-8 can write: JSON can spell half a character, which no text has."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
