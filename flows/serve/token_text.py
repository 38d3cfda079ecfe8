"""What a token is called where a text has to name it."""

import re

from lm.tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Bytes that byte-level BPE writes as the characters of these numbers; it writes the others, in their order, as 256 and on
PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
ALPHABET = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + place): byte for place, byte in enumerate(_OTHERS)}


def token_text(tokenizer: Tokenizer, index: int) -> str:
    """The text of a token; of one that is part of a character `bytes:` and its bytes as \\xNN, as OpenAI's completions have it,
    since U+FFFD would be the name of many. U+FFFD still where the vocabulary does not say the bytes."""
    text = tokenizer.spell([index])
    if REPLACEMENT not in text:
        return text
    found = token_bytes(tokenizer.token(index))
    if found is None or found.decode(errors="replace") != text:
        return text
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in found)


def token_bytes(token: str) -> bytes | None:
    """The bytes of a token as a vocabulary writes it, in the alphabet of byte-level BPE or as <0xNN>; None of another."""
    if fallback := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token):
        return bytes.fromhex(fallback[1])
    return bytes(ALPHABET[letter] for letter in token) if all(letter in ALPHABET for letter in token) else None
