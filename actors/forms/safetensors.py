"""Makes a Hugging Face folder of a GGUF file: `form_safetensors SOURCE FOLDER DTYPE`, in the environment `torch`.

transformers knows each architecture's names and permutations, so it converts the weights. It does not know how a GGUF file cuts text into
words: the tokenizer is ours. Tells its progress as JSON lines; it must not know where forms lie.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..vocabulary import Vocabulary, gguf_vocabulary
from .progress import Tell, run

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Ours -> torch's name."""


def tokenizer_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """The tokenizer with its control tokens, as `tokenizer.json` describes one."""
    described = json.loads(vocabulary.tokenizer.to_str())
    described["model"]["vocab"] |= vocabulary.control
    described["added_tokens"] += [
        {
            "id": number, "content": text, "special": True, "normalized": False,
            "single_word": False, "lstrip": False, "rstrip": False,
        }
        for text, number in vocabulary.control.items()
    ]  # fmt: skip
    described["added_tokens"].sort(key=lambda token: token["id"])
    described["decoder"] = {
        "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True,
    }  # fmt: skip
    if vocabulary.bos_ids:
        described["post_processor"] = _beginning(vocabulary)
    return described


def _beginning(vocabulary: Vocabulary) -> dict[str, Any]:
    """What puts the token of the beginning in front of a text."""
    bos = vocabulary.names["bos_token"]
    first = [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    second = [{"SpecialToken": {"id": bos, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": first,
        "pair": first + second,
        "special_tokens": {bos: {"id": bos, "ids": [*vocabulary.bos_ids], "tokens": [bos]}},
    }


def tokenizer_config(vocabulary: Vocabulary, window: int) -> dict[str, Any]:
    """What `tokenizer_config.json` says beside it."""
    named = {name: text for name, text in vocabulary.names.items() if text}
    return named | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": window,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(vocabulary.bos_ids),
    }


def generation_config(vocabulary: Vocabulary) -> dict[str, Any]:
    """What `generation_config.json` says: every id that ends a text."""
    ids = {name: vocabulary.control.get(text) for name, text in vocabulary.names.items()}
    found = {"bos_token_id": ids.get("bos_token"), "pad_token_id": ids.get("pad_token")}
    ends = [*vocabulary.eos_ids]
    found_ends = {"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {}
    return found_ends | {name: number for name, number in found.items() if number is not None}


def older(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration that readers from before `rope_parameters` and `dtype` understand, too."""
    rope = config.get("rope_parameters") or {}
    plain = rope.get("rope_type", "default") == "default" and "rope_theta" in rope
    theta = {"rope_theta": rope["rope_theta"]} if plain else {}
    return {"torch_dtype": config.get("dtype", "float32")} | theta | config


def convert(source: Path, folder: Path, dtype: str, tell: Tell) -> None:
    """Writes the folder, which must exist and be empty.

    Raises:
        ModelError: the file is broken, or of an architecture or tokenizer that is not supported.
    """
    vocabulary, facts = gguf_vocabulary(source)
    tell(0.02, "reads the weights")
    config = _weights(source, folder, DTYPES[dtype], tell)
    ends = generation_config(vocabulary)
    config.pop("_name_or_path", None)
    config.pop("_model_name_or_path", None)
    documents = {
        "config.json": older(config) | ends,
        "generation_config.json": ends,
        "tokenizer.json": tokenizer_json(vocabulary),
        "tokenizer_config.json": tokenizer_config(vocabulary, facts.window),
    }
    for name, document in documents.items():
        text = json.dumps(document, indent=2, ensure_ascii=False)
        (folder / name).write_text(text, encoding="utf-8")
    if vocabulary.chat_template:
        (folder / "chat_template.jinja").write_text(vocabulary.chat_template, encoding="utf-8")


def _weights(source: Path, folder: Path, dtype: str, tell: Tell) -> dict[str, Any]:
    """Writes the weights and returns the configuration that fits them."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(source.parent),
            gguf_file=source.name,
            quantization_config=transformers.GgufConfig(dequantize=True),
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            f"{source} cannot be converted: {str(error).strip().splitlines()[0][:300]}",
            hint="name a model in safetensors, or serve the GGUF file with openvino or llamacpp",
        ) from None
    tell(0.7, "writes the weights")
    model.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(run(convert, sys.argv[1:]))
