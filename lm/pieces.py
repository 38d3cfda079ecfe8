"""The text of tokens as they come, up to a text that ends it."""

from collections.abc import Sequence

from lm.tokenizer import Tokenizer

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Pieces:
    """What `add` and `end` return, put together, is what `Tokenizer.decode` makes of all tokens, up to where the first of
    `stops` begins; `stopped` says that it came. Nothing is returned that may turn out to be the beginning of one.

    A token is decoded beside the few before it since the last whole character, so that a text of n tokens takes n times the
    work of one.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, stops
        self._ids: list[int] = []
        self._before = self._read = 0  # of the ids: where decoding begins, and up to where the text was returned
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What is known of the text with this token that was not before."""
        if self.stopped:
            return ""
        self._ids.append(token)
        whole, seen = self._decoded()
        if len(whole) <= len(seen) or whole.endswith(REPLACEMENT):
            return ""
        self._before, self._read = self._read, len(self._ids)
        return self._cut(whole[len(seen) :])

    def end(self) -> str:
        """The rest, where no token follows."""
        if self.stopped:
            return ""
        whole, seen = self._decoded()
        said = self._cut(whole[len(seen) :])
        return said if self.stopped else said + self._held

    def _decoded(self) -> tuple[str, str]:
        """The text of the last tokens, and that of those of them whose text was returned."""
        decode = self._tokenizer.decode
        return decode(self._ids[self._before :]), decode(self._ids[self._before : self._read])

    def _cut(self, more: str) -> str:
        """What of the text is surely before any stop; what may be part of one is held."""
        text = self._held + more
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped = True
            return text[: min(places)]
        longest = min(max(map(len, self._stops), default=1) - 1, len(text))
        held = next(
            (n for n in range(longest, 0, -1) if text.endswith(tuple(s[:n] for s in self._stops if len(s) > n))), 0
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held]
