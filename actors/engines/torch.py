"""PyTorch and transformers with a continuous batch of our own, driven step by step inside a worker process.

The last resort for models that no other engine reads. transformers has a continuous batch, too, but it runs on a thread of its own
with one way of sampling for everybody. Decides device, dtype and what a model folder may ask for. It must not know requests or text.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..engine import Capabilities, EngineConfig, EngineStats, Sampling
from ..errors import EngineError, LoadFailed
from ..hf_folder import checked_weights
from ..worker.room import room_for
from ..worker.stepper import Row

if TYPE_CHECKING:
    from ..slot_batch import Batch

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_DEVICES = {"": "cpu", "cpu": "cpu", "nvidia": "cuda", "amd": "cuda"}
"""Family of the planned devices -> torch's name; which ones of them the process sees, its environment says."""


class TorchStepper:
    """See `Stepper`."""

    name: ClassVar[str] = "torch"
    requires: ClassVar[tuple[str, ...]] = ()
    environment: ClassVar[str] = "torch"

    def __init__(self) -> None:
        self._batch: Batch | None = None
        self._capabilities = Capabilities()
        self._vocab = 0

    def load(self, config: EngineConfig, progress: Callable[[float], None]) -> None:
        """See `Stepper`. The folder is judged before torch or transformers see it."""
        device, dtype = device_of(config), dtype_of(config)
        refuse_wishes(config)
        weights = checked_weights(Path(config.model_path), allow_pickle=config.tuning.allow_pickle)
        torch: Any = importlib.import_module("torch")
        if device != "cpu" and not torch.cuda.is_available():
            raise LoadFailed(
                f"the torch of this environment ({torch.__version__}) sees no device of family {config.family}",
                hint="shardyard env check torch; on a machine with GPUs: shardyard env create torch --force",
            )
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        progress(0.1)
        model = _opened(config, dtype, safetensors=weights == "safetensors")
        self._assemble(torch, model.to(device).eval(), config, device, progress)
        exact = device == "cpu" and model.dtype == torch.float32
        self._capabilities = Capabilities(
            window=config.window,
            sequences=self._capabilities.sequences,
            seed=True,
            penalties=True,
            exact=exact,
            numerics="fp32" if exact else "",
            continuation="exact" if exact else "coherent",
        )
        progress(1.0)

    def _assemble(
        self,
        torch: Any,
        model: Any,
        config: EngineConfig,
        device: str,
        progress: Callable[[float], None],
    ) -> None:
        """Cache, runner and batch around a loaded model."""
        from ..slot_batch import Batch
        from ..torch_runner import Runner, SlotCache

        progress(0.8)
        text = model.config.get_text_config()
        check_window(config, text)
        facts = config.facts
        token_bytes = 2 * facts.layers * facts.kv_heads * facts.head_dim * model.dtype.itemsize
        # One whole window always fits, also where the plan counted on a cache of fewer bytes a value.
        budget = max(config.kv_bytes // token_bytes, config.window)
        # A device's memory is taken at once, the CPU's as it is used.
        slots = config.max_sequences if device == "cpu" else budget // config.window
        slots = max(1, min(slots, config.max_sequences))
        layers = text.num_hidden_layers
        cache = SlotCache(torch, slots=slots, window=config.window, layers=layers, device=device)
        runner = Runner(torch, model, cache, device=device)
        self._vocab = text.vocab_size
        _prove(runner, self._vocab, model)
        self._batch = Batch(
            runner,
            cache,  # type: ignore[arg-type]
            slots=slots,
            window=config.window,
            budget_tokens=budget,
            vocab=self._vocab,
            eos_ids=config.eos_ids,
        )
        self._capabilities = Capabilities(sequences=slots)

    def capabilities(self) -> Capabilities:
        """See `Stepper`."""
        return self._capabilities

    def add(self, sequence: int, prompt_ids: tuple[int, ...], sampling: Sampling) -> None:
        """See `Stepper`."""
        assert self._batch is not None
        room_for(prompt_ids, sampling, window=self._capabilities.window, vocab=self._vocab)
        if sampling.json_schema:
            raise EngineError("the torch engine cannot hold a text to a JSON schema")
        self._batch.add(sequence, prompt_ids, sampling)

    def abort(self, sequence: int) -> None:
        """See `Stepper`. The slot is free for the next step."""
        if self._batch is not None:
            self._batch.abort(sequence)

    def busy(self) -> bool:
        """See `Stepper`."""
        return self._batch is not None and self._batch.busy()

    def step(self) -> list[Row]:
        """See `Stepper`."""
        assert self._batch is not None
        return self._batch.step()

    def stats(self) -> EngineStats:
        """See `Stepper`."""
        return self._batch.stats() if self._batch is not None else EngineStats()


def device_of(config: EngineConfig) -> str:
    """Torch's name of the planned device.

    Raises:
        LoadFailed: it drives no such device, or not several together.
    """
    device = _DEVICES.get(config.family)
    if device is None:
        raise LoadFailed(
            f"the torch engine does not drive devices of family {config.family}",
            hint="name another engine for them in the spec",
        )
    if config.tp > 1 or len(config.stages) > 1:
        raise LoadFailed(
            f"the torch engine runs on one device, planned are {config.tp} in {max(1, len(config.stages))} stages",
            hint="name an engine that shares layers in the spec, e.g. vllm",
        )
    return device


def dtype_of(config: EngineConfig) -> str:
    """Torch's name of the planned dtype; `auto` = as the weights are stored.

    Raises:
        LoadFailed: torch computes no such dtype here, or not exactly.
    """
    exact = config.arithmetic == "exact"
    planned = config.dtype or ("fp32" if exact else None)
    if planned is None:
        return "auto"
    if planned not in _DTYPES or (exact and planned != "fp32"):
        how = " exactly" if exact else ""
        raise LoadFailed(
            f"the torch engine does not compute{how} in {planned}",
            hint="set the model's dtype in the spec to "
            + ("fp32" if exact else ", ".join(_DTYPES)),
        )
    return _DTYPES[planned]


def refuse_wishes(config: EngineConfig) -> None:
    """Refuses what a spec asks for and this engine does not have.

    Raises:
        LoadFailed: naming the first of them.
    """
    tuning = config.tuning
    for wish, said in (
        (tuning.quantization, "quantise weights while they load"),
        (tuning.kv_dtype, "keep a KV cache in another dtype than the weights"),
        (tuning.lora, "load adapters"),
    ):
        if wish:
            raise LoadFailed(
                f"the torch engine does not {said}", hint="take it out of the spec, or name vllm"
            )


def check_window(config: EngineConfig, text: Any) -> None:
    """Refuses a window in which the model would not see all that it is given.

    Args:
        text: the model's configuration.

    Raises:
        LoadFailed: with the largest window.
    """
    trained = getattr(text, "max_position_embeddings", None) or config.window
    sliding = getattr(text, "sliding_window", None) or trained
    most = min(trained, sliding)
    if config.window > most:
        raise LoadFailed(
            f"the planned window of {config.window} tokens is larger than the model's {most}",
            hint=f"lower the model's context in the spec to {most}",
        )


def _opened(config: EngineConfig, dtype: str, *, safetensors: bool) -> Any:
    """The model, from this folder and nothing else."""
    transformers: Any = importlib.import_module("transformers")
    transformers.logging.disable_progress_bar()
    attention = config.tuning.attention_backend or "sdpa"
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            config.model_path,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=safetensors,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise LoadFailed(
            f"transformers cannot open {config.model_path}: {lines[0][:300]}",
            hint="make the folder again: shardyard prepare SOURCE --form safetensors",
        ) from error


def _prove(runner: Any, vocab: int, model: Any) -> None:
    kind = type(model).__name__
    try:
        proved = runner.proved(vocab)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        raise LoadFailed(
            f"{kind} does not run on a cache with slots: {type(error).__name__}: {lines[0][:300]}",
            hint="name another engine for this model in the spec, e.g. vllm",
        ) from error
    if not proved:
        raise LoadFailed(
            f"{kind} gives other logits when it reads a text in parts",
            hint="name another engine for this model in the spec, e.g. vllm",
        )
