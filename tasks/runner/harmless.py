"""Texts of documents and models, made fit to be shown."""

import unicodedata


def harmless(text: str) -> str:
    """The text of a stranger with U+FFFD for control characters, which HTML cannot hold and a terminal obeys; line feeds and
    tabs stay."""
    hidden = ("Cc", "Cs")
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in hidden else "\ufffd" for c in text)
