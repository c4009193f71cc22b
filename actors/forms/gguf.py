"""Makes a GGUF file with un-quantised weights of a quantised one: `form_gguf SOURCE FOLDER DTYPE`, in the environment `torch`.

Some engines read quantised GGUF files with rounding of their own; half precision means the same weights to all. Tells its progress as JSON
lines; it must not know where forms lie.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .progress import Tell, run

FILE = "model.gguf"

_FILE_TYPES = {"fp32": 0, "fp16": 1}
"""Ours -> `general.file_type`."""
_COPIED_UNTIL, _WRITTEN = 0.05, 0.95


def convert(source: Path, folder: Path, dtype: str, tell: Tell) -> None:
    """Writes the file into the folder, which must exist and be empty.

    Raises:
        ModelError: the file is broken, or of a quantisation that is not known.
    """
    gguf: Any = importlib.import_module("gguf")
    try:
        reader = gguf.GGUFReader(source)
        architecture = reader.get_field("general.architecture").contents()
        writer = gguf.GGUFWriter(folder / FILE, architecture)
        _copy_keys(gguf, reader, writer, _FILE_TYPES[dtype])
        tell(_COPIED_UNTIL, "describes the tensors")
        for tensor in reader.tensors:
            shape, kind = _plain(tensor, dtype)
            size = kind().itemsize * tensor.n_elements
            writer.add_tensor_info(tensor.name, shape, kind(0).dtype, size)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, values in enumerate(_values(gguf, reader, dtype), 1):
            writer.write_tensor_data(values)
            tell(_COPIED_UNTIL + (_WRITTEN - _COPIED_UNTIL) * done / len(reader.tensors), "writes")
        writer.close()
    except (ValueError, KeyError, NotImplementedError, AttributeError) as error:
        raise ModelError(
            f"{source} cannot be converted: {str(error)[:300]}", hint="fetch the file again"
        ) from None


def _copy_keys(gguf: Any, reader: Any, writer: Any, file_type: int) -> None:
    """Everything that the file says of itself, but what it is stored in."""
    array = gguf.GGUFValueType.ARRAY
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind, *inner = field.types
        value = file_type if field.name == "general.file_type" else field.contents()
        writer.add_key_value(field.name, value, kind, sub_type=inner[-1] if kind == array else None)


def _plain(tensor: Any, dtype: str) -> tuple[list[int], Any]:
    """Shape, slowest dimension first, and the numpy type of a tensor. Vectors stay in single precision, as readers expect."""
    numpy: Any = importlib.import_module("numpy")
    shape = [int(n) for n in reversed(tensor.shape)]
    return shape, numpy.float16 if dtype == "fp16" and len(shape) > 1 else numpy.float32


def _values(gguf: Any, reader: Any, dtype: str) -> Iterator[Any]:
    for tensor in reader.tensors:
        shape, kind = _plain(tensor, dtype)
        plain = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        yield plain.reshape(shape).astype(kind)


if __name__ == "__main__":
    sys.exit(run(convert, sys.argv[1:]))
