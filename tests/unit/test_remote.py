"""Remote endpoints as devices: how they are declared, what may be sent there, what it costs."""

from __future__ import annotations

import pytest
from support.labs import demand

from orchestrator.inventory_dump import dump_inventory
from orchestrator.inventory_file import parse_inventory
from placement.catalog import engines, engines_for
from placement.constraint import Block, Option, Pool
from placement.constraints.remote import check_option
from placement.demand import Demand, Rate
from placement.devices import DeviceClass, Kind
from placement.errors import SpecError
from placement.ids import DeviceId, ModelId, NodeId
from placement.inventory import Inventory
from placement.remote import UNKNOWN_FACTS, is_remote, offers, remote_layout, remote_prediction

URL = "openai+https://api.example.com/v1"
FILE = f"""\
nodes:
  outside:
    devices:
      - class: EXAMPLE_API
        endpoint:
          url: {URL}
          models: [chat]
          concurrency: 64
          tokens_per_s: 50
          ttft_ms: 400
          price_per_million_tokens: 2
  cpu-1:
    cpu: {{cores: 4, memory_gib: 16}}
"""


def inventory() -> Inventory:
    return parse_inventory(FILE, "inventory.yaml")


def api() -> DeviceClass:
    return inventory().classes[0]


def asked(name: str = "chat", source: str = "file:///models/chat", **rest: object) -> Demand:
    return demand(name, source=source, **rest)


def option(wanted: Demand, *, shares: int = 64) -> Option:
    block = Block(node=NodeId("outside"), rack="", island=0, devices=(DeviceId("outside/0"),))
    changes = {"compiled": {}} if "compiled" in Pool.__dataclass_fields__ else {}
    pool = Pool(
        name="EXAMPLE_API",
        device_class=api(),
        memory_bytes=0,
        shares=shares,
        emulated=False,
        engines=None,
        artifacts=frozenset(),
        models=frozenset({ModelId("chat")}),
        blocks=(block,),
        **changes,
    )
    return Option(demand=wanted, facts=UNKNOWN_FACTS, pool=pool, engine=engines()["remote"])


def test_an_endpoint_is_one_device_with_a_share_per_sequence() -> None:
    device = inventory().device(DeviceId("outside/0"))
    assert device is not None
    assert (device.shares, device.memory_bytes) == (64, 0)
    assert api().kind is Kind.REMOTE
    assert (api().power_w, api().endpoint.url) == (0.0, URL)  # type: ignore[union-attr]
    assert [e.name for e in engines_for(api(), emulated=False)] == ["remote"]
    assert inventory().notes == ()


def test_an_endpoint_is_written_back() -> None:
    assert parse_inventory(dump_inventory(inventory()), "again") == inventory()


def test_a_model_goes_there_when_its_source_or_the_operator_says_so() -> None:
    endpoint = api().endpoint
    assert endpoint is not None
    assert offers(endpoint, asked())
    assert offers(endpoint, asked("other", f"{URL}/llama-3-70b"))
    assert offers(endpoint, asked("other", URL))
    assert not offers(endpoint, asked("other"))
    assert not offers(endpoint, asked("other", f"{URL}2/llama"))
    assert is_remote(URL) and not is_remote("file:///m")


def test_the_rule_refuses_what_is_not_offered_and_what_is_too_much() -> None:
    assert check_option(option(asked())) is None
    rejection = check_option(option(asked("secret")))
    assert rejection is not None
    assert (rejection.constraint, rejection.hint.partition(" in ")[0]) == (
        "remote",
        "add secret to `models` of EXAMPLE_API",
    )
    rejection = check_option(option(asked(concurrency=65)))
    assert rejection is not None
    assert (rejection.shortage, rejection.resolvable) == (1, True)


def test_figures_are_those_declared() -> None:
    wanted = asked(concurrency=8, rate=Rate(requests_per_s=1, prompt_tokens=400, output_tokens=100))
    assert remote_layout(wanted).units == 8
    found = remote_prediction(wanted, api())
    assert (found.ttft_s, found.token_s, found.tokens_per_s) == (0.4, 0.02, 400)
    assert found.prefill_tokens_per_s == pytest.approx(1000)
    assert (found.power_w, found.memory_bytes) == (0, 0)
    per_million = found.price_per_hour / 3600 / found.tokens_per_s * 1e6
    assert per_million == pytest.approx(2)
    assert found.uncertainty == 0.5


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        (URL, "https://api.example.com/v1", 6, "should match pattern"),
        ("concurrency: 64", "concurrency: 0", 8, "greater than or equal to 1"),
        ("tokens_per_s: 50", "tokens_per_s: .nan", 9, "tokens_per_s"),
        ("ttft_ms: 400", "ttft_ms: -1", 10, "greater than or equal to 0"),
        ("tokens_per_s: 50\n", "tokens_per_second: 50\n", 9, "tokens_per_second: unknown key"),
        ("class: EXAMPLE_API", "class: NVIDIA_L4_24G", 4, "is a class of hardware"),
        ("class: EXAMPLE_API", "class: EXAMPLE_API\n        watts: 3", 4, "no figures of hardware"),
        ("class: EXAMPLE_API", "class: EXAMPLE_API\n        count: 2", 5, "one device, not 2"),
    ],
)  # fmt: skip
def test_a_wrong_endpoint_is_named_with_its_line(old: str, new: str, line: int, says: str) -> None:
    assert old in FILE
    with pytest.raises(SpecError) as caught:
        parse_inventory(FILE.replace(old, new, 1), "inventory.yaml")
    assert caught.value.message.startswith(f"inventory.yaml:{line}: ")
    assert says in caught.value.message


def test_a_remote_class_without_an_endpoint_is_refused() -> None:
    text = (
        "nodes: {a: {devices: [{class: X, kind: remote, memory_gib: 1, memory_gbyte_per_s: 1,"
        " tflops: {bf16: 1}}]}}"
    )
    with pytest.raises(SpecError, match="X is remote but has no `endpoint`"):
        parse_inventory(text, "inventory.yaml")
