"""Model folders of strangers: a tokenizer in the manner of GPT-2 with control tokens and a chat template, as they are on the
Hub."""

import json
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

from lm.tokenizer import WORDS
from tests.lm.models import other_tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{%- for message in messages %}\n{%- if message['role'] == 'assistant' %}\n<|im_start|>assistant\n"
    "{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}\n\n{%- else %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n{% endif %}\n{%- endfor %}\n"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Llama 2's kind: what a system says stands in the first turn, an answer ends with EOS, and roles must take turns
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set told = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set told = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}"
    "{% if loop.index0 == 0 and told %}{% set content = '<<SYS>>' + told + '<</SYS>>' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# Qwen 3's kind: what a model thought is dropped once it is asked again
FORGETS = (
    "{% for message in messages %}{% set said = message['content'] %}{% if message['role'] == 'assistant' and not loop.last %}"
    "{% set said = said.split('</think>')[-1] %}{% endif %}<|im_start|>{{ message['role'] + '\n' + said }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENDLESS = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
TEMPLATES = {"chatml": CHATML, "marked": MARKED, "llama2": LLAMA2, "forgets": FORGETS}


def strangers_folder(folder: Path, template: str | None, as_file: bool = False, qwen: bool = False) -> Path:
    """The folder, with tokenizer.json, tokenizer_config.json and the template in either of its places. qwen: words are divided as
    transformers divides them for every model of that family, whatever tokenizer.json says."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = other_tokenizer()
    if qwen:
        split, level = pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)
        inner.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    inner.add_special_tokens(["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    inner.save(str(folder / "tokenizer.json"))
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": False, "rstrip": False,
        "single_word": False, "special": True},
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    if template and as_file:
        (folder / "chat_template.jinja").write_text(template)
    elif template:
        described["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return folder
