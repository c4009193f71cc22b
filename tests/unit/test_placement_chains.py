"""Pipelines over several pools: which there are, how layers are split, and what they do."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, replace
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
from support.labs import LLAMA_8B, LLAMA_70B, app, demand

from placement.catalog import catalog, engines
from placement.chain_figures import predict_chain
from placement.chains import (
    EXACT,
    FEW,
    MULTISETS,
    Chain,
    Site,
    chained,
    chains,
    multiset_count,
    split,
)
from placement.layout import Layout, layer_ranges
from placement.policy import POLICIES
from placement.roofline import Hop, predict
from placement.score import replica_value

A100, L4, T4 = "NVIDIA_A100_40G", "NVIDIA_L4_24G", "NVIDIA_T4_16G"
VLLM = replace(engines()["vllm"], chain=16)
ASKED = demand("m1", LLAMA_8B, (0, 1), context=512, concurrency=4, dtype="fp16")
LARGE = demand("m2", LLAMA_70B, (0, 1), context=2048, concurrency=8, dtype="fp16")


def _site(kind: str, devices: int = 1, name: str = "") -> Site:
    device_class = catalog()[kind]
    return Site(
        name=name or kind,
        device_class=device_class,
        engine=VLLM,
        emulated=False,
        memory_bytes=device_class.memory_bytes,
        islands=(1,) * devices,
        tp=(1,),
    )


def _chains(asked, *sites: Site, policy: str = "balanced") -> tuple[Chain, ...]:
    return chains(
        asked, asked.model.facts, sites, replace(app(asked), policy=POLICIES[policy]), Hop()
    )


@pytest.mark.parametrize("kind", [T4, "NVIDIA_H100_80G"])
@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize(("tp", "concurrency"), [(1, 1), (1, 8), (2, 64)])
def test_a_chain_of_equal_stages_does_what_the_roofline_says(
    kind: str, stages: int, tp: int, concurrency: int
) -> None:
    asked = replace(ASKED, concurrency=concurrency)
    facts, device_class, engine = asked.model.facts, catalog()[kind], VLLM
    layers = [end - first for first, end in layer_ranges(facts.layers, stages)]
    found = predict_chain(
        asked,
        facts,
        engine,
        [(device_class, n) for n in layers],
        dtype="fp16",
        tp=tp,
        hop=Hop(),
    )
    layout = Layout(dtype="fp16", tp=tp, pp=stages)
    expected = predict(asked, facts, device_class, engine, layout, device_shares=1, hop=Hop())
    assert astuple(found.predicted) == pytest.approx(astuple(expected), rel=1e-12)
    assert found.stage_power_w == pytest.approx([expected.power_w / stages] * stages)


def test_a_faster_class_in_a_chain_makes_it_faster_than_the_slow_one_alone() -> None:
    slow, fast = catalog()[T4], catalog()[A100]
    facts, engine = ASKED.model.facts, VLLM

    def tokens_per_s(*stages) -> float:
        found = predict_chain(ASKED, facts, engine, stages, dtype="fp16", tp=1, hop=Hop())
        return found.predicted.tokens_per_s

    alone = tokens_per_s((slow, 16), (slow, 16))
    assert alone < tokens_per_s((slow, 5), (fast, 27)) < tokens_per_s((fast, 16), (fast, 16))
    # A slow stage that holds most layers holds the fast one up.
    assert tokens_per_s((slow, 27), (fast, 5)) < alone


@pytest.mark.parametrize("seed", range(20))
def test_no_other_split_has_a_faster_slowest_stage(seed: int) -> None:
    draw = np.random.default_rng(seed)
    counts = np.array([1, int(draw.integers(1, 3))])
    most, speed = draw.integers(3, 9, 2).astype(float), draw.uniform(0.5, 4.0, 2)
    layers = int(draw.integers(3, int(counts @ most) + 1))
    held, top = split(counts[None, :], most, speed, layers)
    sizes = [range(int(m) + 1) for m, n in zip(most, counts, strict=True) for _ in range(n)]
    site = [k for k, n in enumerate(counts) for _ in range(n)]
    best = min(
        max(n / speed[k] for n, k in zip(way, site, strict=True))
        for way in product(*sizes)
        if sum(way) == layers
    )
    assert held.sum() == layers
    assert (top <= most).all()
    assert (top / speed).max() == pytest.approx(best)


def test_a_chain_exists_where_no_pool_alone_holds_the_model() -> None:
    found = _chains(ASKED, _site(T4), _site(T4, name=f"{T4}#2"))
    assert [chain.stages for chain in found] == [((T4, 16), (f"{T4}#2", 16))]
    assert found[0].layout == Layout(dtype="fp16", tp=1, pp=2)


def test_the_faster_class_holds_more_layers() -> None:
    fast, slow = "NVIDIA_H100_80G", "NVIDIA_A100_80G"
    wide = replace(LARGE, concurrency=32)
    (chain,) = _chains(wide, _site(fast, 2), _site(slow))
    layers = dict(chain.stages)
    assert [name for name, _ in chain.stages] == [slow, fast, fast]
    assert layers[fast] > layers[slow]
    assert sum(n for _, n in chain.stages) == LLAMA_70B.layers


def test_what_does_not_fit_is_no_chain() -> None:
    assert _chains(LARGE, _site(T4, 2), _site(L4, 2)) == ()


def test_one_pool_alone_makes_a_chain_only_beyond_the_engines_own_stages() -> None:
    found = _chains(LARGE, _site(L4, 16))
    assert found
    assert min(len(c.stages) for c in found) > VLLM.pp


def test_vendors_do_not_mix_and_other_engines_run_no_chain() -> None:
    assert _chains(ASKED, _site(T4), _site("AMD_MI300X_192G")) == ()
    other = [replace(s, engine=engines()["torch"]) for s in (_site(T4), _site(A100))]
    assert _chains(ASKED, *other) == ()


def test_classes_of_unlike_dtypes_share_one() -> None:
    asked = replace(LARGE, dtype=None)
    found = _chains(asked, _site(T4, 2), _site(A100, 4), _site(L4, 2))
    by_sites = {frozenset(name for name, _ in c.stages): c.layout.dtype for c in found}
    assert by_sites[frozenset({A100, L4})] == "bf16"
    assert by_sites[frozenset({A100, T4})] == "fp16"


def test_a_models_own_limits_hold_for_its_chains() -> None:
    sites = (_site(A100, 4), _site(L4, 4), _site(T4, 4))
    every = _chains(LARGE, *sites)
    limit = sorted(c.predicted.token_s for c in every)[len(every) // 2]
    found = _chains(replace(LARGE, max_token_s=limit), *sites)
    assert found
    assert all(c.predicted.token_s <= limit for c in found)


@pytest.mark.parametrize("policy", ["throughput", "energy"])
def test_no_chain_is_worth_less_than_a_part_of_it_and_worth_is_that_of_its_figures(
    policy: str,
) -> None:
    asked = replace(LARGE, preferred=frozenset({A100}))
    found = _chains(asked, _site(A100, 4), _site(L4, 6), _site(T4, 6), policy=policy)
    assert len(found) < EXACT
    parts = [(Counter(name for name, _ in c.stages), c.value) for c in found]
    for (a, worth_a), (b, worth_b) in product(parts, parts):
        assert not (a < b and worth_a >= worth_b)
    facts = asked.model.facts
    for c in found:
        first = c.stages[0][0]
        expected = replica_value(asked, facts, POLICIES[policy], c.predicted, first)
        assert c.value == pytest.approx(expected, rel=1e-12)
        assert sum(n for _, n in c.stages) == facts.layers
        again = predict_chain(
            asked,
            facts,
            c.engine,
            [(catalog()[name], n) for name, n in c.stages],
            dtype=c.layout.dtype,
            tp=c.layout.tp,
            hop=Hop(),
        )
        assert astuple(again.predicted) == pytest.approx(astuple(c.predicted), rel=1e-9)
        assert again.stage_power_w == pytest.approx(c.stage_power_w, rel=1e-9)


def test_multisets_are_counted_and_kept_few() -> None:
    sites = [_site(T4, 3), _site(A100, 2)]
    sizes = [
        ways
        for n in range(1, 6)
        for ways in combinations_with_replacement((T4, A100), n)
        if ways.count(T4) <= 3 and ways.count(A100) <= 2
    ]
    assert multiset_count(ASKED, ASKED.model.facts, sites) == len(sizes)
    many = [_site(L4, 50, name=f"{L4}#{k}") for k in range(12)]
    assert multiset_count(LARGE, LLAMA_70B, many) <= MULTISETS


def test_many_multisets_are_for_models_that_need_them() -> None:
    few, many = {"a": 10, "b": FEW - 10}, {"a": 10, "b": FEW}
    copies, wanted = {"a": 3}, {"a": 3, "b": 1}
    assert chained(few, copies, wanted) == {"a", "b"}
    assert chained(many, copies, wanted) == {"b"}
