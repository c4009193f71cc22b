"""What broken tools, libraries and kernels say: a recorded machine, changed in one way at a time, the same way each time."""

from __future__ import annotations

import copy
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from actors.host import Fetched
from actors.tools import Completed

from .hosts import FakeHost

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**64,
    1e308,
    math.nan,
    math.inf,
    "",
    "N/A",
    "-17",
    "17521800uW",
    "18446744073709551615",
    "99999999999999 MiB",
    "1e308P",
    "45,5 C",
    "inf",
    "9" * 6000,
    "0" * 32,
    "\x1b[31m7\x1b[0m",
    "\ufffd\u0663",
    [],
    {},
    [[[[1]]]],
    {"a": {"b": {"c": []}}},
    [1, "two", None],
)
"""What may stand where a number, a name, a list or an object should."""

WORDS = ("", "-1", "N/A", "2e400", "18446744073709551616", "9" * 6000, "45,5", "\x1b[1m", "\ufffd")
TEXTS = (
    "",
    "\n",
    "-1\n",
    "18446744073709551616\n",
    "0x" + "f" * 40 + "\n",
    "nan\n",
    "N/A\n",
    "00000000-0000-0000-0000-000000000000\n",
    "7" * 6000 + "\n",
    "\ufffd\ufffd\x00\x1b[31m\n",
    "\n" * 100_000,
    "9" * 100_000,
    "a: b: c\n" * 2_000,
)
"""What may stand in a file; the long ones are what makes a careless pattern run for minutes."""

ENDINGS: tuple[Completed | None, ...] = (
    None,
    Completed(rc=0, out="", err=""),
    Completed(rc=0, out="Segmentation fault\n", err=""),
    Completed(rc=3, out="", err="\x1b[31mno driver\x1b[0m"),
    Completed(rc=124, out="", err="", ended="timeout"),
    Completed(rc=-9, out="x" * 200_000, err="", ended="output_cap"),
    Completed(rc=0, out="\n" * 100_000, err=""),
    Completed(rc=0, out="[" * 100_000, err=""),
    Completed(rc=0, out="[\n" * 20_000, err=""),
    Completed(rc=0, out="9" * 100_000 + " x y", err=""),
    Completed(rc=0, out="null", err=""),
    Completed(rc=0, out="[]", err=""),
    Completed(rc=0, out="{}", err=""),
    Completed(rc=0, out='[1, "two", null, [], {}]', err=""),
    Completed(rc=0, out='{"devices": {"0": 1}, "gpus": 3, "device_list": null}', err=""),
    Completed(rc=0, out="bus_id\n" + '"' + "x" * 200_000, err=""),
    Completed(rc=0, out="| NPU | x |\n| 0 a | OK | a" + " " * 50_000 + "b |\n", err=""),
)


def harmless(host: FakeHost) -> Iterator[tuple[str, FakeHost]]:
    """The same machine, told with colours, other line ends, a byte-order mark: nothing of it may be lost."""
    for name, change in (
        ("CRLF", lambda text: text.replace("\n", "\r\n")),
        ("BOM", lambda text: "\ufeff" + text),
        ("colours", lambda text: "".join(f"\x1b[32m{li}\x1b[0m\n" for li in text.splitlines())),
        ("last words", lambda text: text + "\nbye\n"),
    ):
        yield name, _answers(host, lambda given, change=change: _spoken(given, change))


def hostile(
    host: FakeHost, seed: str, each: int, endings: int = len(ENDINGS)
) -> Iterator[tuple[str, FakeHost]]:
    """Machines whose answers are wrong: the first `endings` of them once, then `each` changes of every kind."""
    for kind in ("tools", "libraries", "fetches"):
        told: dict[str, Any] = dict(getattr(host, kind))
        for key in told:
            for number, ending in enumerate(ENDINGS[:endings] if kind != "fetches" else ()):
                yield f"{key} ends as {number}", _with(host, kind, key, ending)
    rng = random.Random(seed)
    for number in range(each):
        yield f"answers {number}", _answers(host, lambda given: _spoken(given, _mangled(rng)))
        yield f"files {number}", _files(host, rng)


def _with(host: FakeHost, kind: str, key: str, ending: Completed | None) -> FakeHost:
    told = {k: v for k, v in getattr(host, kind).items() if k != key}
    return replace(host, **{kind: {**told, key: ending} if ending is not None else told})


def _answers(host: FakeHost, change: Callable[[Any], Any]) -> FakeHost:
    return replace(
        host,
        tools={k: change(v) for k, v in host.tools.items()},
        libraries={k: change(v) for k, v in host.libraries.items()},
        fetches={k: change(v) for k, v in host.fetches.items()},
    )


def _spoken(given: Any, change: Callable[[str], str]) -> Any:
    if isinstance(given, Completed):
        return replace(given, out=change(given.out))
    if isinstance(given, Fetched):
        return replace(given, text=change(given.text))
    return change(given)


def _mangled(rng: random.Random) -> Callable[[str], str]:
    def change(text: str) -> str:
        try:
            document = json.loads(text)
        except ValueError:
            return _mangled_table(text, rng)
        return json.dumps(_mangled_document(document, rng))

    return change


def _mangled_document(document: Any, rng: random.Random) -> Any:
    """Some values are others, some lists have a member twice, or stand in another order."""
    made = copy.deepcopy(document)
    places = [*_places(made)]
    for box, key in rng.sample(places, min(len(places), rng.choice((1, 3, 12, 60)))):
        inside = box[key] if _has(box, key) else None
        if isinstance(inside, list) and inside and rng.random() < 0.7:
            inside.append(copy.deepcopy(rng.choice(inside)))
            rng.shuffle(inside)
        elif _has(box, key):
            box[key] = copy.deepcopy(rng.choice(VALUES))
    return made


def _has(box: Any, key: Any) -> bool:
    return key in box if isinstance(box, dict) else key < len(box)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inside in pairs:
        yield value, key
        if isinstance(inside, (dict, list)):
            yield from _places(inside)


def _mangled_table(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    for _ in range(rng.choice((1, 3, 12))):
        if not lines:
            break
        at = rng.randrange(len(lines))
        match rng.randrange(5):
            case 0:
                del lines[at]
            case 1:
                lines.insert(rng.randrange(len(lines)), lines[at])
            case 2:
                lines[at] = lines[at][: len(lines[at]) // 2]
            case _:
                words = re.split(r"(\s+|[|,/])", lines[at])
                words[rng.randrange(len(words))] = rng.choice(WORDS)
                lines[at] = "".join(words)
    return "\n".join(lines)


def _files(host: FakeHost, rng: random.Random) -> FakeHost:
    """Files that say something else, vanish, or say what another one of the same name says; a link that is gone."""
    paths = sorted(host.files)
    changed: dict[str, str | None] = {}
    for path in rng.sample(paths, min(len(paths), rng.choice((1, 4, 20)))):
        match rng.randrange(4):
            case 0:
                changed[path] = None
            case 1:
                name = path.rpartition("/")[2]
                others = [p for p in paths if p.rpartition("/")[2] == name]
                changed[path] = host.files[rng.choice(others)]
            case _:
                changed[path] = rng.choice(TEXTS)
    links = dict(host.links)
    if links and rng.random() < 0.3:
        del links[rng.choice(sorted(links))]
    return host.but(changed, links=links)
