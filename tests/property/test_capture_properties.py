"""Whatever a machine looks like, its recording answers as it did; whatever an identifier looks like, it is gone."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hosts import FakeHost

from actors.capture_layout import write_recording
from actors.capture_notes import NotingHost
from actors.host import RecordedHost
from actors.identifiers import disguise, parts
from actors.tools import Completed

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

NAMES = st.sampled_from(["a", "b", "card0", "0000:17:00.0", "device"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/sys/" + "/".join(names))
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)
IDENTIFIERS = st.from_regex(r"[A-Z]{0,4}[0-9a-f]{6,14}", fullmatch=True).filter(parts)


@st.composite
def machines(draw: st.DrawFn) -> FakeHost:
    """Files and links that are a tree: no file below a file, no link in a circle or onto something."""
    files: dict[str, str] = {}
    for path, text in draw(st.lists(st.tuples(PATHS, TEXTS), max_size=8)):
        taken = [p for p in files if p.startswith(f"{path}/") or path.startswith(f"{p}/")]
        if not taken:
            files[path] = text
    folders = sorted({p.rpartition("/")[0] for p in files})
    targets = draw(st.lists(st.sampled_from(folders), max_size=3)) if folders else []
    links = {f"/sys/class/link{k}": target for k, target in enumerate(targets)}
    return FakeHost(files=files, links=links)


@st.composite
def questions(draw: st.DrawFn) -> list[tuple[str, str]]:
    verbs = st.sampled_from(["read", "list", "resolve", "access"])
    roots = st.sampled_from(["", "/sys/class/link0", "/sys/class/link1", "/sys/class"])
    tails = st.one_of(PATHS, NAMES.map(lambda name: f"/{name}"), st.just("/sys"))
    return draw(
        st.lists(st.tuples(verbs, st.builds(lambda r, t: r + t, roots, tails)), max_size=12)
    )


@quick
@given(machines(), questions())
def test_a_recording_answers_what_the_machine_answered(
    machine: FakeHost, asked: list[tuple[str, str]]
) -> None:
    host = NotingHost(machine)
    answers = [getattr(host, verb)(path) for verb, path in asked]
    with tempfile.TemporaryDirectory() as folder:
        write_recording(host.notes, machine, Path(folder), {"origin": "captured"}, str)
        replayed = RecordedHost(Path(folder))
        assert [getattr(replayed, verb)(path) for verb, path in asked] == answers


@quick
@given(st.lists(st.text("abc-_ /", min_size=1, max_size=6), min_size=1, max_size=3), TEXTS, TEXTS)
def test_a_tool_answers_what_it_answered(argv: list[str], out: str, err: str) -> None:
    host = NotingHost(FakeHost())
    told = Completed(rc=3, out=out, err=err, ended="timeout")
    host.notes.tools[("tool", *argv)] = told
    with tempfile.TemporaryDirectory() as folder:
        write_recording(host.notes, FakeHost(), Path(folder), {}, str)
        assert RecordedHost(Path(folder)).run(["tool", *argv], 1.0) == told


@quick
@given(st.sets(IDENTIFIERS, min_size=1, max_size=5), st.binary(min_size=8, max_size=8))
def test_an_identifier_is_gone_and_its_shape_stays(words: set[str], salt: bytes) -> None:
    rename = disguise(words, salt)
    text = " ".join(sorted(words))
    told = rename(text)
    assert [len(word) for word in told.split()] == [len(word) for word in text.split()]
    for old, new in zip(text.split(), told.split(), strict=True):
        assert re.sub("[0-9a-f]", "x", old)[:1].isupper() == new[:1].isupper()
        assert old.lower() != new.lower()
        assert [c.isdigit() for c in old] == [c.isdigit() for c in new]
        assert rename(old.lower()) == new.lower(), "one identifier, however it is spelled"
        assert len(old) - len(old.lstrip("0")) == len(new) - len(new.lstrip("0"))


@quick
@given(TEXTS, st.binary(max_size=4))
def test_without_identifiers_nothing_changes(text: str, salt: bytes) -> None:
    assert disguise((), salt)(text) == text
