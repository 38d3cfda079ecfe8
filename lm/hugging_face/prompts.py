"""A prompt in the format of the library peft, as prompt tuning: adapter_config.json and adapter_model.safetensors."""

from pathlib import Path

from safetensors.torch import save_file

from lm.files import write_json
from lm.hugging_face.adapters import CONFIG, WEIGHTS
from lm.model import Decoder, ModelConfig
from lm.prompts.base import PromptState

# Said where what carries a prompt is to be written in another format
ADVICE = "export the model that it was trained on, and take the prompt beside this one, which soft_prompt.keep leaves"


def save_prompt(folder: Path, prompt: PromptState, config: ModelConfig) -> None:
    """Write a prompt of vectors alone that was trained in front of a model of this shape."""
    described = {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "inference_mode": True,
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": len(prompt.vectors_PD),
        "token_dim": config.width,
        "num_transformer_submodules": 1,
        "num_attention_heads": config.heads,
        "num_layers": config.layers,
        "prompt_tuning_init": "RANDOM",
    }
    write_json(folder / CONFIG, described)
    vectors_PD = prompt.vectors_PD.float().cpu().contiguous()
    save_file({"prompt_embeddings": vectors_PD}, folder / WEIGHTS, {"format": "pt"})


def check_no_prompt(model: Decoder) -> None:
    """Raises ValueError, in one line, for a model that carries a prompt: no format of models has one."""
    if model.prompt is not None:
        raise ValueError(f"the model carries a soft prompt, which no format of models has: {ADVICE}")
