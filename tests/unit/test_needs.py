"""What a request needs is met by an engine's capabilities, or named."""

from __future__ import annotations

from typing import Any

import pytest

from actors.engine import Capabilities
from actors.needs import NEEDS, unmet
from actors.wire import Open

ABLE = Capabilities(
    window=100, seed=True, penalties=True, json_schema=True, lora=("fr",), ids_in=True
)


def a_request(**fields: Any) -> Open:
    return Open(**{"id": "r", "kind": "completion", "prompt": "hi", "temperature": 1.0} | fields)


ASKED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("prompt", {"prompt": [1, 2]}, {"ids_in": False}),
    ("prompt", {"prompt": [1] * 100}, {}),
    ("seed", {"seed": 7}, {"seed": False}),
    ("frequency_penalty", {"frequency_penalty": 0.5}, {"penalties": False}),
    ("presence_penalty", {"presence_penalty": -0.5}, {"penalties": False}),
    ("response_format", {"json_schema": "{}"}, {"json_schema": False}),
    ("model", {"lora": "de"}, {}),
]


@pytest.mark.parametrize(("param", "fields", "lacks"), ASKED)
def test_what_an_engine_lacks_is_named_by_its_field(
    param: str, fields: dict[str, Any], lacks: dict[str, Any]
) -> None:
    able = {name: getattr(ABLE, name) for name in ("window", "seed", "penalties", "lora")}
    need = unmet(a_request(**fields), Capabilities(**{"json_schema": True, **able, **lacks}))
    assert need is not None
    assert need.param == param


def test_every_need_can_be_met() -> None:
    everything = a_request(
        prompt=[1, 2],
        seed=7,
        frequency_penalty=1.0,
        presence_penalty=1.0,
        json_schema="{}",
        lora="fr",
    )
    assert all(need.asked(everything) for need in NEEDS)
    assert unmet(everything, ABLE) is None


def test_a_plain_request_needs_nothing() -> None:
    assert unmet(a_request(), Capabilities(ids_in=False, ids_out=False)) is None


def test_a_seed_does_not_matter_to_greedy_text() -> None:
    assert unmet(a_request(seed=7, temperature=0.0), Capabilities()) is None
