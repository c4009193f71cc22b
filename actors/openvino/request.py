"""What OpenVINO GenAI is asked for one sequence, whichever of its pipelines runs it.

Decides how our sampling is said in the library's terms, and what is refused before the library sees it: it guards neither
window nor vocabulary, and its grammar compiler can end the process. It must not know pipelines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine import EngineConfig, FinishReason, Sampling
from ..errors import EngineError, LoadFailed
from ..grammar_schema import unsupported
from ..worker.room import room_for

FINISHES: dict[str, FinishReason | None] = {
    "NONE": None,
    "STOP": "stop",
    "TOOL_CALL": "stop",
    "LENGTH": "length",
}
"""By the library's names, as it does not export the type everywhere."""


def check_model(config: EngineConfig) -> None:
    """Refuses a model that is not there.

    Raises:
        LoadFailed: nothing lies at its path.
    """
    if not Path(config.model_path).exists():
        raise LoadFailed(
            f"{config.model_path or 'no model path'} does not exist",
            hint="check the model's source on this node",
        )


def asked_tokens(config: EngineConfig, prompt_ids: Sequence[int], sampling: Sampling) -> int:
    """Most tokens to generate: as many as are asked for, as far as the window goes.

    Raises:
        EngineError: the request cannot be run.
    """
    most = room_for(prompt_ids, sampling, window=config.window, vocab=config.facts.vocab)
    if sampling.json_schema and (wrong := unsupported(sampling.json_schema)):
        raise EngineError(wrong)
    return most


def generation(library: Any, config: EngineConfig, sampling: Sampling, max_tokens: int) -> Any:
    """The library's configuration of one generation."""
    made = library.GenerationConfig()
    made.max_new_tokens = max_tokens
    made.ignore_eos = sampling.ignore_eos
    if not sampling.ignore_eos:
        made.stop_token_ids = set(config.eos_ids)
    if config.eos_ids:
        made.eos_token_id = config.eos_ids[0]
    if sampling.temperature > 0:
        made.do_sample = True
        made.temperature = sampling.temperature
        made.top_p = sampling.top_p
        made.rng_seed = sampling.seed
    made.frequency_penalty = sampling.frequency_penalty
    made.presence_penalty = sampling.presence_penalty
    if sampling.json_schema:
        schema = library.StructuredOutputConfig(json_schema=sampling.json_schema)
        made.structured_output_config = schema
    return made
