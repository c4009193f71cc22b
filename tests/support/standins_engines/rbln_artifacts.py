"""optimum-rbln's own code on a stand-in for the compiler: runs in the environment `rbln`, prints one line of JSON.

`compile FOLDER OUT OPTIONS` writes a small random Llama, compiles and saves it; `load FOLDER` loads a compiled one without a
device; `families NAME…` and `devices COUNT NPU` ask its own rules.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def compile_model(folder: str, out: str, options: str) -> dict[str, Any]:
    from optimum.rbln import RBLNAutoModelForCausalLM
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**json.loads((Path(folder) / "config.json").read_text()))
    LlamaForCausalLM(config).save_pretrained(folder)
    model = RBLNAutoModelForCausalLM.from_pretrained(
        folder, export=True, rbln_config={"create_runtimes": False, **json.loads(options)}
    )
    model.save_pretrained(out)
    return {"files": sorted(path.name for path in Path(out).iterdir())}


def load_model(folder: str) -> dict[str, Any]:
    from optimum.rbln import RBLNAutoModelForCausalLM

    model = RBLNAutoModelForCausalLM.from_pretrained(
        folder, export=False, rbln_create_runtimes=False
    )
    config = model.rbln_config
    return {
        "batch": config.batch_size,
        "window": config.max_seq_len,
        "batches": config.decoder_batch_sizes,
    }


def families(*names: str) -> dict[str, Any]:
    from optimum.rbln.utils.runtime_utils import normalize_npu

    return {name: normalize_npu(name) for name in names}


def devices(count: str, npu: str) -> dict[str, Any]:
    from optimum.rbln.utils.runtime_utils import tp_and_devices_are_ok

    return {"refused": tp_and_devices_are_ok(num_devices=int(count), npu=npu)}


if __name__ == "__main__":
    what = {"compile": compile_model, "load": load_model, "families": families, "devices": devices}
    told = what[sys.argv[1]](*sys.argv[2:])
    sys.stdout.write("\n" + json.dumps(told) + "\n")
