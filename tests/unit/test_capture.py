"""A captured machine replays as what it was, and tells nobody whose it is."""

from __future__ import annotations

import importlib
import json
import pkgutil
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.hosts import RECORDINGS, FakeHost

import actors.probes
from actors.capture import Captured, capture
from actors.host import RecordedHost
from actors.identifiers import disguise, identifiers_in, parts
from actors.pci import pci_functions
from actors.probe import Absent, Accelerator, Found
from actors.redaction import HIDDEN
from actors.report import Reading
from actors.tools import Completed
from orchestrator.cli import main
from placement.errors import SpecError

SALT = b"of this test"
UUID = "GPU-5e1f4a2b-90cd-4c8e-8a41-7d2b9f003c11"
SERIAL = "RNG26040100181Q"
MACHINE_ID = "0123456789abcdef0123456789abcdef"
BUS = "/sys/bus/pci/devices"
TREE = "/sys/devices/pci0000:16/0000:16:01.0/0000:17:00.0"

MACHINES = sorted(place.parent for place in RECORDINGS.rglob("host.toml"))


def built_in() -> dict[str, Any]:
    modules = (m.name for m in pkgutil.iter_modules(actors.probes.__path__))
    found = (vars(importlib.import_module(f"actors.probes.{name}")).values() for name in modules)
    return {
        value.name: value
        for values in found
        for value in values
        if isinstance(value, type) and hasattr(value, "probe") and hasattr(value, "name")
    }


class CardProbe:
    """A vendor's probe in short: links, a tool, a library, a device file, a variable, an endpoint."""

    name = "card"
    watches = (BUS,)

    def probe(self, host, node):
        functions = pci_functions(host, ["1ed2"])
        told = host.run(["card-smi", "--id", "0", "-q"], 1.0)
        if not functions or told is None:
            return Absent()
        serial, _, uuid = told.out.partition("\n")
        answer = host.ask("card", f"device {serial.split()[-1]}", 1.0)
        fetched = host.fetch("http://127.0.0.1:9/health", 1.0, {"authorization": "Bearer x"})
        notes = (
            ("asked", str(answer and answer.rc)),
            ("access", host.access("/dev/card/card0")),
            ("other", host.access("/dev/card/card9")),
            ("variable", str(host.env("CUDA_VISIBLE_DEVICES"))),
            ("secret", str(host.env("SHARDYARD_API_KEY") is not None)),
            ("fetched", str(fetched and fetched.status)),
            ("names", ",".join(host.list("/sys/class/card"))),
            ("place", str(host.resolve("/sys/class/card/card0/device"))),
            ("chain", ",".join(functions[0].chain)),
        )
        return Found(
            accelerators=(
                Accelerator(
                    family="furiosa",
                    product="CARD",
                    device_class="FURIOSA_RNGD",
                    serial=serial.split()[-1],
                    uuid=uuid.split()[-1],
                    pci=functions[0].address,
                    firmware=host.read("/sys/class/card/card0/device/fw_version"),
                    notes=notes,
                ),
            )
        )

    def poll(self, host, found):
        text = host.read("/sys/class/card/card0/device/temp") or "nan"
        return {a.identity: Reading(temperature_c=float(text)) for a in found.accelerators}


def card_machine() -> FakeHost:
    return FakeHost(
        files={
            f"{TREE}/vendor": "0x1ed2\n",
            f"{TREE}/device": "0x0001\n",
            f"{TREE}/class": "0x120000\n",
            f"{TREE}/fw_version": "1.2.3\n",
            f"{TREE}/temp": "41.5",
            f"{TREE}/never_asked": "x",
            "/sys/class/card/version": "7\n",
            "/dev/card/card0": "",
            "/etc/machine-id": f"{MACHINE_ID}\n",
            "/proc/sys/kernel/hostname": "rack7-gpu12.example.org\n",
        },
        links={
            f"{BUS}/0000:17:00.0": TREE,
            "/sys/class/card/card0": f"{TREE}/card/card0",
            f"{TREE}/card/card0/device": TREE,
        },
        tools={
            "card-smi_--id_0_-q": f"host rack7-gpu12 serial {SERIAL}\nGPU UUID : {UUID}",
        },
        libraries={f"card_device {SERIAL}": Completed(rc=3, out=SERIAL.lower(), err="no")},
        variables={"CUDA_VISIBLE_DEVICES": UUID, "SHARDYARD_API_KEY": "sesame", "HOME": "/home/x"},
        fetches={"http://127.0.0.1:9/health": "{}"},
        denied=frozenset({"/dev/card/card0"}),
    )


def texts_below(directory: Path) -> str:
    names = "\n".join(str(p.relative_to(directory)) for p in directory.rglob("*"))
    links = "\n".join(str(p.readlink()) for p in directory.rglob("*") if p.is_symlink())
    files = [p.read_text() for p in directory.rglob("*") if p.is_file()]
    return "\n".join([names, links, *files])


def captured(machine: Any, directory: Path, **options: Any) -> Captured:
    return capture(machine, {"card": CardProbe}, directory, SALT, **options)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda p: f"{p.parent.name}-{p.name}")
@pytest.mark.parametrize("hashed", [True, False])
def test_every_recorded_machine_can_be_captured_again(machine, hashed, tmp_path):
    done = capture(RecordedHost(machine), built_in(), tmp_path / "new", SALT, hashed=hashed)
    assert done.differences == ()
    assert done.files


@pytest.mark.parametrize("machine", MACHINES, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_no_serial_number_of_a_recorded_machine_stays(machine, tmp_path):
    host = RecordedHost(machine)
    outcomes = [probe().probe(host, "n") for probe in built_in().values()]
    told = [a for o in outcomes if isinstance(o, Found) for a in o.accelerators]
    words = {part for a in told for word in (a.serial, a.uuid) if word for part in parts(word)}
    capture(host, built_in(), tmp_path / "new", SALT)
    there = texts_below(tmp_path / "new").lower()
    assert [word for word in sorted(words) if word.lower() in there] == []


def test_links_devices_tools_and_libraries_replay(tmp_path):
    done = captured(card_machine(), tmp_path / "new")
    assert done.differences == ()
    assert done.found == (("card", "1 devices"),)
    host = RecordedHost(tmp_path / "new")
    assert host.resolve("/sys/class/card/card0/device") == TREE
    assert host.access("/dev/card/card0") == "denied"
    assert host.read(f"{BUS}/0000:17:00.0/vendor") == "0x1ed2\n"
    assert host.list("/sys/class/card") == ("card0", "version")


def test_what_was_not_asked_for_is_not_taken(tmp_path):
    captured(card_machine(), tmp_path / "new")
    told = texts_below(tmp_path / "new")
    assert "never_asked" not in told
    assert "/home/x" not in told
    assert "Bearer" not in told


def test_nothing_tells_whose_machine_it_is(tmp_path):
    captured(card_machine(), tmp_path / "new")
    told = texts_below(tmp_path / "new").lower()
    for word in (UUID[4:], SERIAL, MACHINE_ID, "rack7-gpu12", "sesame"):
        assert word.lower() not in told
    assert HIDDEN in told
    assert "0000:17:00.0" in told, "a bus address is nobody's"


def test_the_same_identifier_becomes_the_same_word(tmp_path):
    captured(card_machine(), tmp_path / "new")
    host = RecordedHost(tmp_path / "new")
    told = host.run(["card-smi", "--id", "0", "-q"], 1.0)
    assert told is not None
    uuid = told.out.split()[-1]
    assert host.env("CUDA_VISIBLE_DEVICES") == uuid
    assert uuid.startswith("GPU-")
    serial = told.out.split()[3]
    assert len(serial) == len(SERIAL)
    (library,) = (tmp_path / "new" / "libraries").iterdir()
    assert json.loads(library.read_text())["out"] == serial.lower()
    assert serial in library.name


def test_another_salt_gives_other_words():
    assert disguise([SERIAL], b"1")(SERIAL) != disguise([SERIAL], b"2")(SERIAL)


def test_identifiers_can_be_kept(tmp_path):
    assert captured(card_machine(), tmp_path / "new", hashed=False).differences == ()
    assert SERIAL in texts_below(tmp_path / "new")


def test_a_machine_that_changes_while_it_is_looked_at_is_one_picture(tmp_path):
    class Moving(FakeHost):
        def read(self, path):
            text = super().read(path)
            self.clock.append(1.0)
            return str(float(len(self.clock))) if path.endswith("/temp") else text

    machine = card_machine()
    moving = Moving(**{f: getattr(machine, f) for f in machine.__dataclass_fields__})
    assert captured(moving, tmp_path / "new").differences == ()


def test_a_probe_that_does_not_repeat_itself_is_named(tmp_path):
    seen = []

    class Fickle(CardProbe):
        def probe(self, host, node):
            seen.append(1)
            return Absent() if len(seen) > 1 else super().probe(host, node)

    done = capture(card_machine(), {"card": Fickle}, tmp_path / "new", SALT)
    assert any("only on the machine: accelerators" in line for line in done.differences)
    assert any("only in the recording: Absent" in line for line in done.differences)


def test_a_probe_that_raises_is_broken_and_hides_nothing(tmp_path):
    class Raises:
        name = "raises"

        def probe(self, host, node):
            raise OSError("odd")

    done = capture(card_machine(), {"card": CardProbe, "raises": Raises}, tmp_path / "new", SALT)
    assert dict(done.found) == {"card": "1 devices", "raises": "broken: raised OSError: odd"}
    assert done.differences == ()


def test_a_probe_that_hangs_keeps_nothing_up(tmp_path):
    answered = threading.Event()

    class Hangs:
        name = "hangs"

        def probe(self, host, node):
            answered.wait(30.0)
            return Absent()

    probes = {"card": CardProbe, "hangs": Hangs}
    try:
        done = capture(card_machine(), probes, tmp_path / "new", SALT, deadline_s=0.2)
    finally:
        answered.set()
    assert dict(done.found)["hangs"] == "broken: no answer within 0.2 s"
    assert done.differences == ()


def test_names_that_no_file_can_have_are_left_out(tmp_path):
    class Odd:
        name = "odd"

        def probe(self, host, node):
            names = [name for name in host.list("/sys/odd") if host.read(f"/sys/odd/{name}")]
            return Found(accelerators=tuple(self.accelerator(name) for name in names))

        def accelerator(self, name):
            return Accelerator(family="odd", product=name, device_class="X")

    files = {"/sys/odd/good": "1", "/sys/odd/a\0b": "2", "/sys/odd/" + "x" * 300: "3"}
    done = capture(FakeHost(files), {"odd": Odd}, tmp_path / "new", SALT)
    assert RecordedHost(tmp_path / "new").list("/sys/odd") == ("good",)
    assert len(done.differences) == 2


def test_a_short_name_of_a_machine_is_hidden_too(tmp_path):
    machine = FakeHost({"/proc/sys/kernel/hostname": "ann\n"})
    capture(machine, {}, tmp_path / "new", SALT)
    assert "ann" not in texts_below(tmp_path / "new")


def test_a_file_that_may_not_be_read_stays_unreadable(tmp_path):
    class Closed(FakeHost):
        def read(self, path):
            return None if path.endswith("fw_version") else super().read(path)

    machine = card_machine()
    closed = Closed(**{f: getattr(machine, f) for f in machine.__dataclass_fields__})
    assert captured(closed, tmp_path / "new").differences == ()
    assert RecordedHost(tmp_path / "new").read(f"{TREE}/fw_version") is None


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(SpecError, match="not an empty folder"):
        captured(card_machine(), tmp_path)
    with pytest.raises(SpecError, match="not an empty folder"):
        captured(card_machine(), tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Serial Number : 1654221003416", {"1654221003416"}),
        ('"serial": "N/A", "uuid": null', set()),
        ("<serial>1654221003416</serial>", {"1654221003416"}),
        ("Serial: Enabled", set()),
        ("uuid: 00000000", set()),
        ("link/ether 0c:42:a1:de:ad:01", {"0c:42:a1:de:ad:01"}),
        ("0000:17:00.0 at 12:30:45", set()),
        (f"0::/kubepods/{'ab12' * 16}", {"ab12" * 16}),
        ("memory 85899345920", set()),
        ("cpu_cores_count 0\nunique_id 13196742819374201", {"13196742819374201"}),
        ("serial: 0x5ee3a1f2", {"5ee3a1f2"}),
    ],
)
def test_what_identifies(text, found):
    assert identifiers_in("", text) == found


def test_files_that_are_identifiers():
    assert identifiers_in("/sys/class/drm/card0/device/unique_id", "5ee3a1f2\n") == {"5ee3a1f2"}
    assert identifiers_in("/etc/hostname", "rambo\n") == {"rambo"}
    assert identifiers_in("/etc/hostname", "localhost\n") == set()


def test_a_number_is_the_same_in_decimal_and_hexadecimal_digits():
    word = "5172daa0a0feb9f7"
    rename = disguise([word], SALT)
    decimal, plain, prefixed = rename(f"{int(word, 16)} {word} 0x{word.upper()}").split()
    assert plain != word
    assert int(decimal) == int(plain, 16) == int(prefixed, 16)


def test_words_inside_other_words_stay():
    rename = disguise(["abc12"], SALT)
    assert rename("xabc12 abc123") == "xabc12 abc123"
    assert rename("x_abc12/") != "x_abc12/"


def test_the_command_records_this_machine(tmp_path):
    done = CliRunner().invoke(main, ["capture", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert "replayed: identical" in done.output
    assert RecordedHost(tmp_path / "new").facts["origin"] == "captured"
    again = CliRunner().invoke(main, ["capture", str(tmp_path / "new")])
    assert again.exit_code == 2


def test_passwords_and_tokens_are_hidden_wherever_they_stand(tmp_path):
    class Tells:
        name = "tells"

        def probe(self, host, node):
            done, named = host.run(["smi"], 1.0), host.env("SHARDYARD_REMOTE") or "[]"
            fetched = host.fetch(json.loads(named)[0]["url"] + "/v1/models", 1.0)
            words = f"{done and done.out} {fetched and fetched.status} {named}"
            return Found(accelerators=(self.accelerator(words),))

        def accelerator(self, words):
            return Accelerator(family="odd", product=words, device_class="X")

    url = "http://me:hunter2@npu-1:8000"
    machine = FakeHost(
        tools={"smi": 'env: HF_TOKEN=hf_abc {"api_key": "k-123", "max_tokens": 12}'},
        fetches={f"{url}/v1/models": '{"url": "x?token=t0ps3cret&n=1"}'},
        variables={"SHARDYARD_REMOTE": f'[{{"url": "{url}", "password": "hunter3"}}]'},
    )
    for hashed in (True, False):
        place = tmp_path / f"hashed-{hashed}"
        done = capture(machine, {"tells": Tells}, place, SALT, hashed=hashed)
        assert done.differences == ()
        told = texts_below(place)
        for secret in ("hunter2", "hunter3", "hf_abc", "k-123", "t0ps3cret"):
            assert secret not in told
        assert "max_tokens" in told


class ListsDevices:
    """Lists a folder, opens one thing of it, and looks for one that may not be read."""

    name = "lists"

    def probe(self, host, node):
        told = (
            host.list("/dev"),
            host.access("/dev/card0"),
            host.resolve("/dev/tty7"),
            host.read("/dev/tty7"),
            host.list("/dev/empty"),
            host.resolve("/dev/empty"),
        )
        return Found(accelerators=(self.accelerator(str(told)),))

    def accelerator(self, words):
        return Accelerator(family="odd", product=words, device_class="X")


class Unreadable(FakeHost):
    def read(self, path):
        return None


def test_a_listing_is_one_entry_and_not_a_file_for_each_name(tmp_path):
    files = {f"/dev/{name}": "" for name in ("card0", *(f"tty{k}" for k in range(60)))}
    machine = Unreadable({**files, "/dev/empty/x": ""})
    done = capture(machine, {"lists": ListsDevices}, tmp_path / "new", SALT)
    assert done.differences == ()
    assert done.files < 5
    assert not [p for p in (tmp_path / "new").rglob("*") if p.is_dir() and not any(p.iterdir())]
    host = RecordedHost(tmp_path / "new")
    assert host.list("/dev") == machine.list("/dev")
    assert host.read("/dev/tty7") is None
    assert (host.resolve("/dev/tty7"), host.resolve("/dev/tty99")) == ("/dev/tty7", None)
    assert (host.access("/dev/tty7"), host.access("/dev/tty99")) == ("ok", "absent")


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_looked_at(tmp_path):
    looked = []

    class Looks(CardProbe):
        def probe(self, host, node):
            looked.append(1)
            return Absent()

    (tmp_path / "file").write_text("x")
    with pytest.raises(SpecError, match="cannot be written to"):
        capture(card_machine(), {"card": Looks}, tmp_path / "file" / "new", SALT)
    assert looked == []
    with pytest.raises(SpecError) as raised:
        capture(card_machine(), {"card": Looks}, Path("/proc/new"), SALT)
    assert raised.value.hint == "name a folder of your own"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [True, False])
def test_what_was_not_finished_is_no_recording(error, there, tmp_path):
    class Full(FakeHost):
        """Ends while the answers are written: what is a link is asked then."""

        def resolve(self, path):
            if path.startswith("/sys/full"):
                raise error
            return super().resolve(path)

    class Reads:
        name = "reads"

        def probe(self, host, node):
            host.read("/etc/machine-id")
            host.read("/sys/full/x")
            return Absent()

    place = tmp_path / "new"
    if there:
        place.mkdir()
    with pytest.raises((SpecError, KeyboardInterrupt)):
        capture(Full({"/sys/full/x": "1"}), {"reads": Reads}, place, SALT)
    assert not (place / "host.toml").exists()
    assert not place.exists() or not any(place.iterdir())


def test_a_link_to_an_empty_folder_and_a_relative_path_are_taken(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert captured(card_machine(), tmp_path / "link").differences == ()
    assert (tmp_path / "real" / "host.toml").is_file()
    monkeypatch.chdir(tmp_path)
    assert captured(card_machine(), Path("here/new")).differences == ()


def test_a_recording_of_a_recording_keeps_its_origin(tmp_path, monkeypatch):
    machine = RECORDINGS / "furiosa" / "synthetic-4-cards"
    monkeypatch.setenv("SHARDYARD_RECORDING", str(machine))
    done = CliRunner().invoke(main, ["capture", str(tmp_path / "new")])
    assert done.exit_code == 0, done.output
    assert "furiosa: 4 devices" in done.output
    assert RecordedHost(tmp_path / "new").facts["origin"] == "synthetic"
    monkeypatch.setenv("SHARDYARD_RECORDING", str(tmp_path / "nothing"))
    assert CliRunner().invoke(main, ["capture", str(tmp_path / "other")]).exit_code == 2


def test_what_a_stand_in_pretends_is_not_captured(tmp_path):
    machine = card_machine().but({}, variables={"SHARDYARD_STAND_IN": "1"})
    captured(machine, tmp_path / "new")
    facts = RecordedHost(tmp_path / "new").facts
    assert facts["origin"] == "synthetic"
    assert "stand-in" in facts["about"]
