"""Asks Rebellions' runtime what it sees. Run by `library_child`; not kept, as the runtime may hold the devices open."""

from __future__ import annotations

from typing import Any

MODULE = "rebel"
KEEP = False


def answer(question: str) -> dict[str, Any]:
    """`devices`: how many there are, and the name and readiness of each; `version`: of the package.

    Raises:
        ValueError: nothing else can be asked.
    """
    import rebel  # type: ignore[missing-import]

    if question == "version":
        return {"version": str(getattr(rebel, "__version__", ""))}
    if question == "devices":
        count = int(rebel.device_count())
        return {
            "count": count,
            "devices": [
                {"name": rebel.get_npu_name(k), "available": bool(rebel.npu_is_available(k))}
                for k in range(count)
            ],
        }
    raise ValueError(f"rebel is not asked {question!r}")
