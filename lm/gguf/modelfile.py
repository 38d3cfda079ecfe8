"""An Ollama Modelfile, the description of a model that `ollama create NAME -f Modelfile` reads."""

from lm.tokenizer import ASSISTANT, END, EOS, USER, Tokenizer

# One turn of ours in Go's templates: what a system says stands before the user's words (lm/chat_template.py).
OURS = (
    f"{USER}{{{{ if .System }}}}{{{{ .System }}}}\n\n{{{{ end }}}}{{{{ .Prompt }}}}{ASSISTANT}{{{{ .Response }}}}{END}"
)


def modelfile(file: str, tokenizer: Tokenizer, context: int) -> str:
    """Text of the Modelfile of a GGUF file beside it. Conversations are written as here; where the model has a chat template of
    its own, Ollama is left to know it by the one in the file."""
    lines = [f"FROM ./{file}", f"PARAMETER num_ctx {context}"]
    lines += [f"PARAMETER stop {token}" for token in dict.fromkeys([tokenizer.token(tokenizer.end_id), EOS])]
    if not tokenizer.own_template:
        lines.append(f'TEMPLATE """{OURS}"""')
    return "\n".join(lines) + "\n"
