"""What is kept of a server's output: whole lines, no secrets, bounded files."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from actors.server import log as server_log
from actors.server.log import ServerLog, secrets_of


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_are_whole_wherever_they_are_cut(size: int, tmp_path: Path) -> None:
    log = ServerLog(str(tmp_path / "a" / "log"), clock=Clock())
    text = "one\r\n\ntwo\rthree é\nunfinished".encode()
    for start in range(0, len(text), size):
        log.feed(text[start : start + size])
    assert log.end() == ["one", "two", "three é", "unfinished"]
    assert (tmp_path / "a" / "log").read_text() == "one\ntwo\nthree é\nunfinished\n"


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_secrets_are_hidden_also_across_reads(size: int) -> None:
    secrets = secrets_of(
        {"VENDOR_KEY": "s3cret-value", "PEM_SECRET": "line-one\nline-two", "PATH": "/usr/bin"}
    )
    log = ServerLog("", secrets)
    text = b"key s3cret-value in /usr/bin\nline-two then line-one\npassword=hunter2\n"
    for start in range(0, len(text), size):
        log.feed(text[start : start + size])
    assert log.end() == ["key hidden in /usr/bin", "hidden then hidden", "password=hidden"]


def test_secrets_are_hidden_however_they_are_spelled() -> None:
    secret = 'p\u00e4ss"w\\rd/9'
    log = ServerLog("", [secret])
    for spelled in (secret, json.dumps(secret), repr(secret), quote(secret, safe="")):
        log.feed(f"it is {spelled}\n".encode())
    assert log.end() == ["it is hidden", 'it is "hidden"', "it is 'hidden'", "it is hidden"]


def test_a_secret_across_the_end_of_a_long_line_does_not_show() -> None:
    log = ServerLog("", ["topsecretvalue"], clock=(clock := Clock()))
    for before in range(server_log.LINE_BYTES - 20, server_log.LINE_BYTES + 1100, 7):
        clock.time += 1.0
        log.feed(b"x" * before + b"topsecretvalue" + b"y" * 5000 + b"\n")
    for line in log.end():
        assert line.endswith(" [cut]")
        assert "tops" not in line
        assert len(line) <= server_log.LINE_BYTES


def test_a_line_without_an_end_costs_no_memory() -> None:
    log = ServerLog("", clock=(clock := Clock()))
    for _ in range(1000):
        clock.time += 1.0
        log.feed(b"z" * 60_000)
        assert len(log._partial) < 8192
    assert len(log.end()) == 1


def test_a_flood_is_counted_and_its_end_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = ServerLog(str(path), clock=Clock())
    log.feed(b"first\n")
    for _ in range(2000):
        log.feed(b"flood line\n" * 5000)
    log.feed(b"flood line\nthe cause\n" * 1000)
    last = log.end()
    assert last[-1] == "the cause"
    assert path.read_text().startswith("first\n")
    assert "lines left out, " in path.read_text()
    assert path.stat().st_size < 2 << 20


def test_lines_go_on_after_a_flood() -> None:
    log = ServerLog("", clock=(clock := Clock()))
    log.feed(b"half of a line")
    for _ in range(30):
        log.feed(b"x" * 65535 + b"\n")
    log.feed(b"x" * server_log.BURST_BYTES)
    clock.time += 10.0
    log.feed(b"rest of a line\nquiet again\n")
    last = log.end()
    assert last[-1] == "quiet again"
    assert last[-2].startswith("[")
    assert "rest of a line" not in last


def test_the_end_of_a_flood_is_told_when_it_is_quiet(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = ServerLog(str(path), clock=(clock := Clock()))
    log.feed(b"x" * server_log.BURST_BYTES)
    log.feed(b"dropped\nthe flood is over\nnext")
    log.rest()
    assert path.read_text().endswith("too fast]\nthe flood is over\n")
    clock.time += 1.0
    log.feed(b" line\n")
    assert log.end()[-1] == "next line"
    log.rest()


def test_files_rotate(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = ServerLog(str(path), clock=(clock := Clock()))
    for _ in range(2 * server_log.FILE_BYTES // 100_000 + 10):
        clock.time += 1.0
        log.feed((b"w" * 99 + b"\n") * 1000)
    log.end()
    sizes = sorted(p.stat().st_size for p in tmp_path.iterdir())
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["log", "log.1"]
    assert sizes[1] <= server_log.FILE_BYTES


def test_a_disk_that_takes_nothing_costs_only_the_lines(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = ServerLog(str(tmp_path / "file" / "log"))
    log.feed(b"one\n")
    assert log.end() == ["one"]


def test_a_link_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    (tmp_path / "log").symlink_to(tmp_path / "precious")
    log = ServerLog(str(tmp_path / "log"))
    log.feed(b"one\n")
    log.end()
    assert (tmp_path / "precious").read_text() == "keep"
