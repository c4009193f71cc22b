"""Vendors' libraries in children: what hangs, crashes or prints takes nothing with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hosts import gone

from actors import library
from actors.library import PYTHON_ENV, Libraries

SCRIPTS = {
    "good": 'MODULE = "json"\nKEEP = True\nimport os\ncount = 0\n\n\ndef answer(question):\n'
    "    global count\n    count += 1\n    print('noise')\n    return [question, count, os.getpid()]\n",
    "once": 'MODULE = "json"\nKEEP = False\nimport os\n\n\ndef answer(question):\n    return os.getpid()\n',
    "hangs": 'MODULE = "json"\nKEEP = True\nimport time\n\n\ndef answer(question):\n    time.sleep(60)\n',
    "crashes": 'MODULE = "json"\nKEEP = True\nimport os\n\n\ndef answer(question):\n    os._exit(9)\n',
    "raises": 'MODULE = "json"\nKEEP = True\n\n\ndef answer(question):\n    raise SystemExit("driver says no")\n',
    "huge": 'MODULE = "json"\nKEEP = True\n\n\ndef answer(question):\n    return "x" * 100_000_000\n',
    "absent": 'MODULE = "no_such_module_here"\nKEEP = True\n\n\ndef answer(question):\n    return 1\n',
}


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Libraries]:
    for name, text in SCRIPTS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(library, "_SCRIPTS", tmp_path)
    made = Libraries()
    yield made
    made.close()


def test_a_library_is_asked_again_in_the_same_process_and_its_prints_are_not_its_answer(libraries):
    first, second = libraries.ask("good", "a", 10), libraries.ask("good", "b", 10)
    assert first.out.startswith('["a", 1, ')
    assert second.out.startswith('["b", 2, ')
    assert first.out.split(", ")[2] == second.out.split(", ")[2]
    pid = int(second.out.split(", ")[2].rstrip("]"))
    libraries.close()
    assert gone(pid)


def test_a_heavy_library_does_not_stay(libraries):
    first, second = libraries.ask("once", "a", 10), libraries.ask("once", "a", 10)
    assert first.out != second.out
    assert gone(int(first.out))


@pytest.mark.parametrize(
    ("name", "ended", "word"),
    [
        ("hangs", "timeout", ""),
        ("crashes", "exit", "status 9"),
        ("raises", "exit", "driver says no"),
        ("huge", "output_cap", ""),
    ],
)
def test_what_goes_wrong_is_an_answer_too(libraries, name, ended, word):
    answer = libraries.ask(name, "a", 1.5 if name == "hangs" else 10)
    assert answer.ended == ended
    assert answer.rc != 0
    assert word in answer.err
    assert libraries.ask("good", "a", 10).rc == 0


def test_a_library_that_is_not_installed_is_none(libraries):
    assert libraries.ask("absent", "a", 10) is None
    assert libraries.ask("unheard-of", "a", 10) is None


def test_another_interpreter_that_does_not_start_is_an_error_with_its_name(libraries, monkeypatch):
    monkeypatch.setenv(PYTHON_ENV + "GOOD", "/no/such/python")
    answer = libraries.ask("good", "a", 10)
    assert answer.rc == 126
    assert "/no/such/python" in answer.err
