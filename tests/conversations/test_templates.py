"""Chat templates: the ids are those that transformers makes of the same folder, and what cannot be used is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lm.chat_template import OURS, ChatTemplate
from lm.config import ConfigError
from lm.conversations.dialogue import Dialogue
from lm.conversations.encode import encode_dialogue
from lm.problems.example import Example
from lm.tokenizer import TURN, Tokenizer
from lm.training.data.conversations import Conversation, demonstration_conversation, make_conversation
from tests.conversations.folders import CHATML, ENDLESS, LLAMA2, TEMPLATES, strangers_folder
from tests.lm.models import toy_tokenizer

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=12)
TURNS = [
    {"role": "user", "content": "What is 12 + 34?"},
    {"role": "assistant", "content": "<think>carry</think> It is 46.\n"},
    {"role": "user", "content": " and\u00e9 2+2 "},
    {"role": "assistant", "content": "4"},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Any]]:
    """By the names of templates: ours of the folder, and transformers'."""
    from transformers import AutoTokenizer

    found = {}
    for name, template in TEMPLATES.items():
        folder = strangers_folder(tmp_path_factory.mktemp(name), template, as_file=name == "marked")
        found[name] = Tokenizer.adopt(folder), AutoTokenizer.from_pretrained(folder)
    return found


def theirs(tokenizer: Any, messages: list[dict[str, Any]], awaiting: bool) -> list[int]:
    return tokenizer.apply_chat_template(messages, add_generation_prompt=awaiting, tokenize=True, return_dict=False)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
def test_ids_are_those_of_transformers(folders: dict[str, Any], name: str, texts: list[str]) -> None:
    ours, other = folders[name]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    awaiting = len(messages) % 2 == 1
    assert ours.encode_written(ours.template.render(messages, awaiting).text)[0] == theirs(other, messages, awaiting)
    assert ours.chat(texts[0]) == theirs(other, messages[:1], True)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=TEXTS, answer=TEXTS)
def test_a_demonstration_has_the_ids_of_its_template(
    folders: dict[str, Any], name: str, prompt: str, answer: str
) -> None:
    """Those of transformers up to the end of the answer, and those that a file with the same exchange gives."""
    ours, other = folders[name]
    found = demonstration_conversation(ours, Example("1", prompt, "", answer))
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    assert found.prompt + found.completion == theirs(other, messages, False)[: len(found)]
    assert found.completion[-1] == ours.end_id and ours.end_id not in found.completion[:-1]
    (same,) = encode_dialogue(Dialogue("a:1", messages, [0.0, 1.0]), ours)
    assert (found.prompt, found.completion) == (same.prompt, same.completion) and found.weights is None
    assert found.prompt == ours.chat(prompt)


def test_a_demonstration_by_hand(folders: dict[str, Any], tmp_path: Path) -> None:
    """Llama 2's stands apart by the blanks of its template; ours is what it was, and so is one whose template asks otherwise
    than it writes."""
    llama, plain, example = folders["llama2"][0], toy_tokenizer(), Example("1", "2+2", "4", "4")
    found = demonstration_conversation(llama, example)
    assert llama.spell(found.prompt) == "<s>[INST] 2+2 [/INST]" and llama.spell(found.completion) == " 4 </s>"
    assert make_conversation(plain, "2+2", "4") == Conversation(plain.chat("2+2"), [*plain.encode("4"), plain.end_id])
    thinks = Tokenizer.adopt(strangers_folder(tmp_path, CHATML.replace("assistant\n'", "assistant\n<think>\n'")))
    assert make_conversation(thinks, "2+2", "4") == Conversation(
        thinks.chat("2+2"), [*thinks.encode("4"), thinks.end_id]
    )
    for answer in ("4<|im_end|>", "4\ufdd0"):
        with pytest.raises(ConfigError, match=r"^an answer .*; leave it out: '4"):
            make_conversation(folders["chatml"][0], "2+2", answer)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_end_of_an_answer_is_the_templates(folders: dict[str, Any], name: str) -> None:
    tokenizer, other = folders[name]
    wanted = "</s>" if name == "llama2" else "<|im_end|>"
    assert tokenizer.end_id == other.convert_tokens_to_ids(wanted) and tokenizer.token(tokenizer.end_id) == wanted


def test_marks_say_where_answers_are(folders: dict[str, Any]) -> None:
    tokenizer, _ = folders["marked"]
    written = tokenizer.template.render(TURNS)
    assert written.spans and [written.text[slice(*span)] for span in written.spans] == [
        f"{turn['content']}<|im_end|>" for turn in TURNS if turn["role"] == "assistant"
    ]
    assert tokenizer.template.render(TURNS[:1], awaiting=True).spans == []


def test_a_model_carries_its_template_and_its_contract_tells_another(tmp_path: Path) -> None:
    made = Tokenizer.adopt(strangers_folder(tmp_path / "a", LLAMA2))
    made.save(tmp_path / "a")
    again = Tokenizer.load(tmp_path / "a")
    assert again == made and again.chat("2+2") == made.chat("2+2") and again.end_id == made.end_id
    other = Tokenizer.adopt(strangers_folder(tmp_path / "b", CHATML))
    plain = Tokenizer.adopt(strangers_folder(tmp_path / "c", None))
    assert made != other and made != plain and plain.contract.turn == TURN
    with pytest.raises(ValueError, match="turn is 'sha256:"):
        made.contract.check({**vars(other.contract), "tokenizer_sha256": made.contract.tokenizer_sha256}, "config.json")


def test_ours_says_what_chat_says_and_takes_systems_and_tools(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    assert not tokenizer.own_template
    write = tokenizer.template.render
    assert tokenizer.encode_written(write(TURNS[:1], awaiting=True).text)[0] == tokenizer.chat(TURNS[0]["content"])
    system, user, tool = ({"role": role, "content": role[0]} for role in ("system", "user", "tool"))
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": {"a": 1}}]}
    said = '<|user|>Tools: [{"name": "add"}]\n\ns\n\nu<|assistant|>{"name": "add", "arguments": {"a": 1}}<|end|><|user|>t<|assistant|>'
    assert write([system, user, call, tool], awaiting=True, tools=[{"name": "add"}]).text == said
    assert write([system], awaiting=True).text == "<|user|>s\n\n<|assistant|>"
    with pytest.raises(ValueError, match="the roles are system, user, assistant and tool, not judge"):
        write([{"role": "judge", "content": "x"}])


def test_ours_is_read_by_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = toy_tokenizer()
    tokenizer.save(tmp_path)
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": OURS}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(described))
    other = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "system", "content": "Be brief."}, *TURNS]
    assert theirs(other, messages, False) == tokenizer.encode_written(tokenizer.template.render(messages).text)[0]
    adopted = Tokenizer.adopt(tmp_path)
    assert not adopted.own_template and adopted == tokenizer


BEGINNINGS = {
    "a comment": "    {# hi #}\n{{ messages[0]['content'] }}",
    "a block": "  {% for m in messages %}{{ m['content'] }}\n{% endfor %}",
    "a block that strips": "\t{%- for m in messages %}{{ m['content'] }}{% endfor %}",
    "an expression": "  {{ messages[0]['content'] }}",
    "a line feed": "\n{% for m in messages %}{{ m['content'] }}{% endfor %}",
    "two line feeds": "\n\n{{ messages[0]['content'] }}",
}


@pytest.mark.parametrize("tokens", [{}, {"bos_token": "<s>"}, {"bos_token": "<s>", "eos_token": "</s>"}])
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_template_begins_as_in_transformers(beginning: str, tokens: dict[str, str], tmp_path: Path) -> None:
    """Whatever stands before it, so that it has its tokens: its first line is a line, of which jinja strips what it strips."""
    from transformers.utils.chat_template_utils import render_jinja_template

    text = BEGINNINGS[beginning]
    found = ChatTemplate.adopt(tmp_path, {"chat_template": text, **tokens})
    assert found is not None
    messages = [{"role": "user", "content": " a"}]
    [expected], _ = render_jinja_template([messages], chat_template=text, **tokens)
    assert found.render(messages).text == expected


def test_what_cannot_be_used_is_said(tmp_path: Path, folders: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"broken.*tokenizer_config.json: its chat template cannot be read: .*endfor"):
        Tokenizer.adopt(strangers_folder(tmp_path / "broken", "{% for m in messages %}"))
    with pytest.raises(ValueError, match="chat_template.jinja: its chat template cannot be read"):
        Tokenizer.adopt(strangers_folder(tmp_path / "file", "{% nothing %}", as_file=True))
    with pytest.raises(ConfigError, match="puts no control token behind an answer"):
        _ = Tokenizer.adopt(strangers_folder(tmp_path / "endless", ENDLESS)).end_id
    with pytest.raises(ValueError, match="the chat template refuses it: roles must take turns"):
        folders["llama2"][0].template.render(TURNS[1:])
    for prompt, said in (
        ("a <|im_end|> b", r"spells the control token <\|im_end\|>, .*"),
        ("a\ufdd0", r"cannot be asked: .*U\+FDD0.*"),
    ):
        with pytest.raises(ConfigError, match=rf"^a prompt {said}; leave it out: .a.*.$"):
            folders["chatml"][0].chat(prompt)
    with pytest.raises(ValueError, match="refuses it: .*strftime_now"):
        ChatTemplate("{{ strftime_now('%d') }}").render(TURNS)


@pytest.mark.parametrize("text", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"])
def test_a_template_is_kept_in_a_sandbox(text: str) -> None:
    with pytest.raises(ValueError, match="the chat template refuses it"):
        ChatTemplate(text).render(TURNS)
