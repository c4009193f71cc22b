"""Links between devices in few words, and the islands that follow from them."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from placement.interconnect import Interconnect, LinkKind, bonds, islands, link_between

NVLINK = Interconnect(kind=LinkKind.DIRECT, lanes=18, bytes_per_s=450e9)
SWITCH = Interconnect(kind=LinkKind.SWITCH)
NUMA = Interconnect(kind=LinkKind.NUMA)
SYSTEM = Interconnect(kind=LinkKind.SYSTEM)
NAMES = tuple("abcdefgh")


def mesh(names, link):
    return dict.fromkeys(combinations(names, 2), link)


def test_a_full_mesh_is_one_bond():
    assert [b.members for b in bonds(mesh(NAMES, NVLINK))] == [NAMES]


def test_a_device_is_not_joined_with_itself():
    assert bonds({("a", "a"): NVLINK}) == ()


@given(
    st.dictionaries(
        st.sampled_from(list(combinations(NAMES, 2))), st.sampled_from([NVLINK, SWITCH, SYSTEM])
    )
)
def test_bonds_say_exactly_what_the_pairs_said(pairs):
    known = bonds(pairs)
    for a, b in combinations(NAMES, 2):
        assert link_between(a, b, known) == pairs.get((a, b))
        assert link_between(b, a, known) == pairs.get((a, b))


def test_a_fabric_makes_the_islands_and_leaves_out_who_is_not_on_it():
    pairs = mesh("abcd", NUMA) | mesh("ab", NVLINK) | {("c", "d"): SWITCH}
    assert islands(["abcd"], bonds(pairs)) == {"a": 0, "b": 0, "c": 1, "d": 2}


def test_without_a_fabric_a_numa_domain_is_an_island():
    pairs = mesh("abcd", SYSTEM) | {("a", "b"): SWITCH, ("c", "d"): NUMA}
    assert islands(["abcd"], bonds(pairs)) == {"a": 0, "b": 0, "c": 1, "d": 1}


def test_devices_that_nobody_says_anything_of_are_one_island_per_class():
    assert islands(["ab", "c"], ()) == {"a": 0, "b": 0, "c": 1}


def test_islands_never_span_two_groups():
    found = islands(["ab", "cd"], bonds(mesh("abcd", NVLINK)))
    assert found["a"] == found["b"] != found["c"] == found["d"]
