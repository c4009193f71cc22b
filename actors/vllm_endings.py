"""What the ends of vLLM's processes mean, as rows: the first that fits counts, so causes stand before consequences.

The patterns are taken from what vLLM 0.32 prints. Its startup lines name every option, so none matches the name of one.
"""

from __future__ import annotations

from .server.spec import Ending

ENDINGS = (
    Ending(
        reason="the GPU has too little memory for the model",
        says=r"(CUDA|HIP) out of memory|OutOfMemoryError|Free memory on device .* is less than",
        hint="nvidia-smi shows who else uses it; plan fewer sequences, a shorter context or a smaller dtype",
    ),
    Ending(
        reason="the KV cache is too small for one sequence of the planned window",
        says=r"larger than the available KV cache memory|No available memory for the cache blocks",
        hint="lower the demand's context, or give it more memory",
    ),
    Ending(
        reason="the node has too little memory for the planned KV cache",
        says=r"Available memory on node .* (on kv cache allocation|on startup)|Cannot allocate memory|MemoryError",
        hint="lower the demand's concurrency or context, or end what else fills the node's memory",
    ),
    Ending(
        reason="the planned window is longer than the model's own",
        says=r"User-specified max_model_len .* is greater than",
        hint="lower the demand's context to what config.json gives as max_position_embeddings",
    ),
    Ending(
        reason="the model wants code of its own run, which is never done",
        says=r"trust_remote_code=True|requires you to execute",
        hint="take another engine for this model, or a version of vLLM that knows its architecture",
    ),
    Ending(
        reason="this version of vLLM does not know the model's architecture",
        says=r"Model architectures .* are not supported|does not recognize this architecture|no vLLM implementation",
        hint="shardyard env create vllm --force brings its latest version; or let another engine serve the model",
    ),
    Ending(
        reason="the model's files are torn or foreign",
        says=r"SafetensorError|InvalidHeader|Cannot find any model weights|not a valid JSON|size mismatch",
        hint="remove the form and make it again: shardyard prepare SOURCE --form safetensors",
    ),
    Ending(
        reason="no driver or device that this build of vLLM can use",
        says=r"NVIDIA driver|CUDA driver|libcuda\.so|no CUDA-capable device|No (CUDA|HIP) GPUs|Failed to infer device",
        hint="shardyard doctor checks the driver; the environment's flavour must fit the machine",
    ),
    Ending(
        reason="the processes of the engine cannot reach each other",
        says=r"NCCL error|ncclRemoteError|ncclSystemError|DistNetworkError|DistStoreError|Gloo connect|connectFullMesh",
        hint="all nodes of the pipeline need one network on which every port between them is open",
    ),
    Ending(
        reason="its address is taken",
        says=r"[Aa]ddress already in use",
        hint="it is tried again with another one; if it stays, see who listens: ss -ltnp",
    ),
    Ending(
        reason="the disk or /dev/shm is full",
        says=r"No space left on device",
        hint="free space there; the processes of vLLM share memory through /dev/shm",
    ),
    Ending(
        reason="the environment does not fit this engine",
        says=r"ModuleNotFoundError|ImportError|PackageNotFoundError|operator torchvision::nms|unrecognized arguments",
        hint="shardyard env create vllm --force",
    ),
    Ending(
        reason="the processor lacks instructions that this build needs",
        status=-4,
        hint="vLLM on processors needs AVX2 at least; let another engine serve the model on this node",
    ),
    Ending(
        reason="native code of it crashed",
        status=-11,
        hint="its log has the last lines; another attention_backend may avoid it",
    ),
    # vLLM tells the exit code of a worker, but often before it knows it.
    Ending(
        reason="one of its processes died",
        says=r"died unexpectedly",
        hint="its log has the cause above that line; with none there, the kernel killed it for lack of memory (dmesg):"
        " lower the demand's concurrency or context, or give the node more memory",
    ),
    Ending(
        reason="its core failed while it served",
        says=r"EngineDeadError|EngineCore encountered an issue",
        hint="its log has the cause above that line",
    ),
    Ending(
        reason="its core failed while it started",
        says=r"Engine core initialization failed",
        hint="its log has the cause above that line",
    ),
)
