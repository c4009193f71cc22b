"""What a model is: facts that size it. No model name ever decides anything."""

from __future__ import annotations

from dataclasses import dataclass

from .ids import ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The figures of a decoder that placement needs.

    Attributes:
        parameters: number of weights, all of them.
        window: longest sequence (prompt and completion) in tokens that the model was trained for.
        architecture: the field's name of the graph, e.g. `llama`.
        weights_bytes: size of the stored weights; 0 = derive from `parameters` and the dtype in use.
    """

    parameters: float
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    window: int
    architecture: str
    weights_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model by name: where its weights come from and, when known, its facts.

    Attributes:
        source: `package://`, `file://`, `hf://` or `openai+https://` address of the weights.
        tokenizer: source whose tokenizer and chat template serve it; the model's own by default.
        facts: None until a node that can resolve the source has read the file's header.
    """

    id: ModelId
    source: str
    tokenizer: str
    facts: ModelFacts | None = None
