"""How a conversation is written for a model: a Jinja template, the one of its folder where it has one, else ours.

Templates are read as transformers reads them (its chat_template_utils), in the sandbox that Jinja has for texts of strangers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

# A message as templates know it: `role` and `content`, and with tools `tool_calls` or `name`
Message = Mapping[str, Any]

# One turn of ours. What a system says, and which tools there are, stands before the first words of the user, since there is no
# token for it; what a tool answers is a turn of the user's.
OURS = (
    "{%- set told = namespace(text='') %}"
    "{%- if tools %}{% set told.text = 'Tools: ' + (tools | tojson) + '\n\n' %}{% endif %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{% set told.text = told.text + message['content'] + '\n\n' %}"
    "{%- elif message['role'] in ('user', 'tool') %}{{ '<|user|>' + told.text + message['content'] }}"
    "{% set told.text = '' %}"
    "{%- elif message['role'] == 'assistant' %}"
    "{%- if told.text %}{{ '<|user|>' + told.text }}{% set told.text = '' %}{% endif %}"
    "{{ '<|assistant|>' + (message['content'] or '') }}"
    "{%- for call in message['tool_calls'] or [] %}{{ call | tojson }}{% endfor %}{{ '<|end|>' }}"
    "{%- else %}{{ raise_exception('the roles are system, user, assistant and tool, not ' + message['role']) }}"
    "{%- endif %}{% endfor %}"
    "{%- if told.text %}{{ '<|user|>' + told.text }}{% endif %}"
    "{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Characters that Unicode keeps from texts that are exchanged: they stand around what {% generation %} says it is
BEGIN, END = "\ufdd0", "\ufdd1"
FILES = ("chat_template.jinja", "tokenizer_config.json")


@dataclass(frozen=True)
class RenderedConversation:
    """A conversation as text. spans: [start, end) in characters of what the model is to say, by `{% generation %}`; None where
    the template does not mark it."""

    text: str
    spans: list[tuple[int, int]] | None


class ChatTemplate:
    """A template that stands by itself: the tokens that it names are in it, so that it is one text on disk."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.marks = "generation" in text and "endgeneration" in text

    @classmethod
    def adopt(cls, folder: Path, described: dict[str, Any]) -> "ChatTemplate | None":
        """The template of a folder: chat_template.jinja, else what its tokenizer_config.json, `described`, has; None where
        there is neither, or it is ours. Raises ValueError naming the file of one that is no template."""
        path = folder / FILES[0]
        if path.exists():
            text: Any = path.read_text(encoding="utf-8-sig")
        else:
            path, text = folder / FILES[1], described.get("chat_template")
        if isinstance(text, list):  # several, each with a name
            named = {each.get("name"): each.get("template") for each in text if isinstance(each, dict)}
            text = named.get("default") or next(iter(named.values()), None)
        if text is None or text == OURS:
            return None
        if not isinstance(text, str):
            raise ValueError(f"{path}: its chat template is {type(text).__name__}, not a text")
        found = cls(_with_tokens(text, described))
        try:
            _compiled(found.text)
        except Exception as error:  # whatever jinja2 says of a text that is none
            raise ValueError(f"{path}: its chat template cannot be read: {error}") from None
        return found

    @property
    def digest(self) -> str:
        """Digest by which two templates are told apart."""
        return "sha256:" + sha256(self.text.encode()).hexdigest()[:16]

    def render(
        self, messages: Sequence[Message], awaiting: bool = False, tools: list[Any] | None = None
    ) -> RenderedConversation:
        """The conversation; with `awaiting`, up to where the model's next words begin. Raises ValueError with what the template
        refuses, or for a message with a character that is none."""
        made = self._rendered(messages, awaiting, tools)
        if not self.marks:
            return RenderedConversation(made, None)
        parts, spans, place = [], [], 0
        for piece in made.split(BEGIN):
            inside, marked, after = piece.partition(END)
            if marked:
                spans.append((place, place + len(inside)))
            parts += [inside, after]
            place += len(inside) + len(after)
        return RenderedConversation("".join(parts), spans)

    def _rendered(self, messages: Sequence[Message], awaiting: bool, tools: list[Any] | None) -> str:
        if any(mark in str(message.get("content")) for message in messages for mark in (BEGIN, END)):
            raise ValueError("it has the character U+FDD0 or U+FDD1, which no text may have")
        try:
            return _compiled(self.text).render(messages=list(messages), tools=tools, add_generation_prompt=awaiting)
        except Exception as error:  # jinja2's, and what the template's own expressions raise: a message without a role
            raise ValueError(f"the chat template refuses it: {' '.join(str(error).split())}") from None


def _with_tokens(text: str, described: dict[str, Any]) -> str:
    """The template with the special tokens of its tokenizer set before it: transformers gives them to it beside the
    messages."""
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    tokens = {name: token for name in names if (token := named_token(described, name))}
    said = "".join(f"{{%- set {name} = {dumps(token, ensure_ascii=False)} %}}" for name, token in tokens.items())
    # a block takes a line feed behind it away, and the template begins a line, as it does by itself
    return f"{said}\n{text}" if said else text


def named_token(described: dict[str, Any], name: str) -> str | None:
    """A token as transformers writes it: a string, or an object with its content."""
    value = described.get(name)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) and value else None


@lru_cache(maxsize=8)
def _compiled(text: str) -> Any:
    return _environment().from_string(text)


@lru_cache(maxsize=1)
def _environment() -> Any:
    """Jinja as transformers sets it up. `strftime_now` is left out: what a template wrote would be of the day."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}...{% endgeneration %}`: what the model is to say, which stands between marks afterwards."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            return f"{BEGIN}{caller()}{END}"

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, **more: Any) -> str:
        return dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = to_json
    made.globals["raise_exception"] = refuse
    return made
