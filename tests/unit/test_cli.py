"""The command line: grammar, output, exit codes, and each bad input with one clear sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.control import FakeControl, control_server

from orchestrator.cli import main, observe
from orchestrator.inventory_file import load_inventory
from orchestrator.spec import load_app
from placement.codec import encode

EXAMPLES = Path(__file__).parents[2] / "examples"
APP = str(EXAMPLES / "mixed-lab" / "app.yaml")
LAB = str(EXAMPLES / "mixed-lab" / "lab.yaml")

SLOT = {
    "slot": "m/r0",
    "model": "m",
    "engine": "openvino",
    "dtype": "fp16",
    "tp": 1,
    "pp": 1,
    "stages": [{"layers": [0, 30], "node": "n1", "devices": ["n1/cpu0"]}],
    "predicted": {
        "ttft_ms": 10.0,
        "token_ms": 2.0,
        "tokens_per_s": 500.0,
        "watts": 60.0,
        "price_per_hour": 0.1,
        "memory_gib_per_device": 0.5,
    },
    "why": {"runner_up": None, "binding": []},
}
DOCUMENT: dict[str, Any] = {
    "feasible": True,
    "generation": 3,
    "policy": "balanced",
    "seed": 0,
    "value": 1.0,
    "bound": 1.0,
    "gap": 0.0,
    "proven": True,
    "cpu_s": 0.0,
    "slots": [SLOT],
    "unplaced": [],
    "rejections": [],
    "prices": {},
    "conflict": [],
    "fixes": [],
}
REJECTION = {
    "model": "m",
    "class": "CPU",
    "tp": 1,
    "constraint": "memory",
    "reason": "needs 21.3 GiB of 14.9 on each device",
    "shortage": 6.4,
}
INFEASIBLE = DOCUMENT | {
    "feasible": False,
    "slots": [],
    "rejections": [REJECTION],
    "conflict": ["m"],
    "fixes": [{"change": {"models.m.replicas": 2}, "says": "replicas of m: 3 -> 2"}],
}
CHANGE = {"kind": "start", "slot": "m/r0", "before": None, "after": ["n1/cpu0"], "reason": "new"}
ANSWER = {"document": DOCUMENT, "diff": [CHANGE], "accepted": True}
READY = {
    "slot": "m/r0",
    "model": "m",
    "engine": "emulated",
    "device_class": "RBLN_ATOM",
    "devices": ["n1/0", "n1/1"],
    "node": "n1",
    "state": "ready",
    "load_ratio": 1.0,
    "emulated": True,
    "detail": "",
}
STATUS: dict[str, Any] = {
    "endpoint": "",
    "generation": 3,
    "revision": 1,
    "nodes": 2,
    "nodes_silent": 0,
    "devices": 4,
    "models": [
        {"model": "m", "replicas_wanted": 1, "replicas_ready": 1, "emulated": False, "problem": ""}
    ],
    "infeasible": [],
    "problems": [],
}


@pytest.fixture
def control(tmp_path: Path) -> Iterator[FakeControl]:
    with control_server(tmp_path / "state") as fake:
        yield fake


@pytest.fixture
def shardyard(tmp_path: Path) -> Any:
    """Runs the command in this process, with a state folder of its own."""

    def call(*args: str, stdin: str | None = None) -> Result:
        env = {"SHARDYARD_STATE": str(tmp_path / "state"), "NO_COLOR": "1"}
        return CliRunner().invoke(main, list(args), env=env, input=stdin)

    return call


def last_json(text: str) -> Any:
    return json.loads(text.strip().splitlines()[-1])


# -- grammar --------------------------------------------------------------------------------------------------------


def test_help_names_every_command(shardyard: Any) -> None:
    done = shardyard("--help")
    assert done.exit_code == 0
    wanted = "up down node plan apply ps status logs scale explain doctor run schema completion"
    for name in [*wanted.split(), "devices", "--version"]:
        assert name in done.stdout
    assert "\\b" not in done.stdout


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_explains_itself(shardyard: Any, command: str) -> None:
    done = shardyard(command, "--help")
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage:")


def test_version(shardyard: Any) -> None:
    assert shardyard("--version").stdout.startswith("shardyard ")


def test_starting_loads_neither_ray_nor_solver_nor_http() -> None:
    code = "import sys, orchestrator.cli; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert not loaded & {
        "ray",
        "numpy",
        "constraint",
        "httpx",
        "pydantic",
        "yaml",
        "rich",
        "openvino",
    }


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["statuss"], "Did you mean 'status'?"),
        (["plan"], "Missing argument 'SPEC'"),
        (["devices", "-o", "xml"], "'xml' is not one of"),
        (["scale", "m", "many"], "'many' is not a valid integer"),
        (["up", "x.yaml", "--join", "a:1", "--lab", "l.yaml"], "exclude each other"),
        (["node", "start"], "Give either --head or --address"),
        (["node", "start", "--head", "--address", "a:1"], "Give either --head or --address"),
        (["logs", "m/r0", "-n", "0"], "0 is not in the range"),
        (["scale", "m", "1", "--timeout", "nan"], "nan is not a finite number"),
        (["run", "m", "hello", "--temperature", "nan"], "nan is not a finite number"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(shardyard: Any, args: list[str], says: str) -> None:
    done = shardyard(*args)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hint: ")


def test_without_a_command_the_help_is_shown(shardyard: Any) -> None:
    done = shardyard()
    assert done.exit_code == 2
    assert "Commands:" in done.stdout


def test_errors_are_json_when_json_is_asked_for(shardyard: Any) -> None:
    done = shardyard("plan", "absent.yaml", "--inventory", LAB, "-o", "json")
    assert done.exit_code == 2
    error = last_json(done.stderr)
    assert error["code"] == "spec.invalid"
    assert "absent.yaml: No such file" in error["message"]
    assert (
        last_json(shardyard("devices", "-o", "json", "--nonsense").stderr)["code"] == "spec.usage"
    )


def test_a_bug_is_short_and_says_how_to_see_more(shardyard: Any, control: FakeControl) -> None:
    control.answers["GET /v1/status"] = {"nonsense": True}
    done = shardyard("status")
    assert done.exit_code == 1
    assert "Traceback" not in done.stderr
    assert "--debug" in done.stderr
    assert "Traceback" in shardyard("status", "--debug").stderr


# -- no cluster -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [["status"], ["ps"], ["devices"], ["explain"], ["logs", "x"], ["scale", "m", "2"], ["plan", APP],
     ["apply", APP], ["run", "m", "hello"]],
)  # fmt: skip
def test_without_a_cluster_every_command_says_so(shardyard: Any, args: list[str]) -> None:
    done = shardyard(*args)
    assert done.exit_code == 4
    assert "no cluster is running" in done.stderr
    assert "hint: shardyard up SPEC" in done.stderr


def test_a_controller_that_has_gone_is_unreachable(shardyard: Any, tmp_path: Path) -> None:
    with control_server(tmp_path / "state"):
        pass
    done = shardyard("status")
    assert done.exit_code == 4
    assert "no controller answers at http://127.0.0.1:" in done.stderr


def test_a_broken_control_file_is_unreachable(shardyard: Any, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "control.json").write_text("{")
    done = shardyard("status")
    assert done.exit_code == 4
    assert "cannot be read" in done.stderr


def test_a_wrong_token_is_unreachable(shardyard: Any, control: FakeControl, tmp_path: Path) -> None:
    body = json.dumps({"url": control.url, "token": "other"})
    (tmp_path / "state" / "control.json").write_text(body)
    assert shardyard("status").exit_code == 4


# -- offline plans --------------------------------------------------------------------------------------------------


def test_plan_on_a_file_prints_one_document(shardyard: Any) -> None:
    done = shardyard("plan", "--inventory", LAB, APP, "-o", "json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["feasible"]
    assert {s["stages"][0]["node"] for s in document["slots"]} == {
        "gpu-1",
        "atom-1",
        "rngd-1",
        "cpu-1",
    }


def test_plan_on_a_file_as_a_table_and_with_reasons(shardyard: Any) -> None:
    done = shardyard("plan", "--inventory", LAB, APP, "--explain")
    assert done.exit_code == 0
    assert "smollm2/r0" in done.stdout
    assert "emulated" in done.stdout
    document = shardyard("plan", "--inventory", LAB, APP, "--explain", "-o", "json").stdout
    assert json.loads(document)["explanation"]


def test_a_spec_from_standard_input(shardyard: Any) -> None:
    done = shardyard("plan", "--inventory", LAB, "-", stdin=Path(APP).read_text())
    assert done.exit_code == 0
    both = shardyard("plan", "--inventory", "-", "-", stdin="")
    assert both.exit_code == 2


def test_an_impossible_spec_names_constraint_and_shortage(shardyard: Any, tmp_path: Path) -> None:
    spec = tmp_path / "big.yaml"
    big = Path(APP).read_text().replace("134.5e6", "405e9").replace("layers: 30", "layers: 126")
    spec.write_text(big)
    done = shardyard("plan", "--inventory", LAB, str(spec))
    assert done.exit_code == 3
    assert "memory" in done.stdout
    document = json.loads(shardyard("plan", "--inventory", LAB, str(spec), "-o", "json").stdout)
    assert not document["feasible"]
    assert any(r["constraint"] == "memory" and r["shortage"] > 0 for r in document["rejections"])


def test_an_unknown_key_exits_2_with_line_and_nearest_name(shardyard: Any, tmp_path: Path) -> None:
    spec = tmp_path / "app.yaml"
    spec.write_text("models:\n  m:\n    source: package://p\n    replcas: 2\n")
    done = shardyard("plan", "--inventory", LAB, str(spec))
    assert done.exit_code == 2
    assert f"error: {spec}:4: models.m.replcas: unknown key" in done.stderr
    assert "hint: did you mean replicas?" in done.stderr


def test_a_misspelled_device_class_in_a_rule_exits_2(shardyard: Any, tmp_path: Path) -> None:
    spec = tmp_path / "app.yaml"
    rule = "constraints: {banned_hardware: [NVIDIA_H100]}"
    spec.write_text(f"models: {{m: {{source: 'package://p', {rule}}}}}")
    done = shardyard("plan", "--inventory", LAB, str(spec))
    assert done.exit_code == 2
    assert "no device class NVIDIA_H100" in done.stderr
    assert "NVIDIA_H100_80G" in done.stderr


def test_explain_on_files(shardyard: Any) -> None:
    done = shardyard("explain", "smollm2", "--inventory", LAB, APP, "-o", "json")
    assert done.exit_code == 0
    assert any("smollm2" in sentence for sentence in json.loads(done.stdout)["sentences"])


def test_devices_of_a_file_round_trip(shardyard: Any, tmp_path: Path) -> None:
    written = shardyard("devices", "--inventory", LAB, "-o", "yaml").stdout
    (tmp_path / "again.yaml").write_text(written)
    assert load_inventory(tmp_path / "again.yaml") == load_inventory(LAB)
    assert "EMULATED" in shardyard("devices", "--inventory", LAB).stdout


# -- with a controller ----------------------------------------------------------------------------------------------


def test_plan_shows_the_diff_of_a_dry_run(shardyard: Any, control: FakeControl) -> None:
    control.answers["POST /v1/plan"] = ANSWER
    done = shardyard("plan", APP)
    assert done.exit_code == 0
    assert "start" in done.stdout
    assert "n1/cpu0" in done.stdout
    route, body = control.asked[-1]
    assert route == "POST /v1/plan"
    assert body["app"]["name"] == "mixed-lab"


def test_the_app_arrives_as_it_was_read(shardyard: Any, control: FakeControl) -> None:
    from placement.codec import decode
    from placement.demand import App

    control.answers["POST /v1/apply"] = ANSWER
    control.answers["GET /v1/replicas"] = {"replicas": [READY]}
    assert shardyard("apply", APP).exit_code == 0
    body = control.asked[0][1]
    assert decode(App, json.dumps(body["app"]).encode()) == load_app(APP)
    assert body["yaml"] == Path(APP).read_text()


def test_an_infeasible_apply_exits_3_with_what_would_help(
    shardyard: Any, control: FakeControl
) -> None:
    control.answers["POST /v1/apply"] = {"document": INFEASIBLE, "diff": [], "accepted": False}
    done = shardyard("apply", APP)
    assert done.exit_code == 3
    assert "needs 21.3 GiB of 14.9" in done.stdout
    assert "would help: replicas of m: 3 -> 2" in done.stdout


def test_apply_that_is_not_ready_in_time_exits_5(shardyard: Any, control: FakeControl) -> None:
    control.answers["POST /v1/apply"] = ANSWER
    loading = READY | {"state": "loading", "detail": "reads weights"}
    control.answers["GET /v1/replicas"] = {"replicas": [loading]}
    done = shardyard("apply", APP, "--timeout", "0")
    assert done.exit_code == 5
    assert "m/r0 is loading (reads weights)" in done.stderr
    assert "hint: shardyard logs m/r0" in done.stderr
    assert shardyard("apply", APP, "--no-wait").exit_code == 0


def test_a_plan_whose_replicas_are_not_listed_yet_is_not_ready(
    shardyard: Any, control: FakeControl
) -> None:
    control.answers["POST /v1/apply"] = ANSWER
    control.answers["GET /v1/replicas"] = {"replicas": []}
    assert shardyard("apply", APP, "--timeout", "0").exit_code == 5


def test_scale_asks_the_controller(shardyard: Any, control: FakeControl) -> None:
    control.answers["POST /v1/scale"] = ANSWER
    assert shardyard("scale", "m", "3", "--no-wait").exit_code == 0
    assert control.asked[-1][1] == {"model": "m", "replicas": 3}


def test_an_error_of_the_controller_keeps_its_kind(shardyard: Any, control: FakeControl) -> None:
    error = {"code": "spec.invalid", "message": "no model is called m", "hint": "did you mean n?"}
    control.answers["POST /v1/scale"] = (400, error)
    done = shardyard("scale", "m", "3")
    assert done.exit_code == 2
    assert "error: no model is called m\nhint: did you mean n?" in done.stderr
    control.answers["POST /v1/scale"] = (500, "oops")
    done = shardyard("scale", "m", "3")
    assert "the controller answered 500" in done.stderr


def test_ps_shows_progress_and_what_is_emulated(shardyard: Any, control: FakeControl) -> None:
    loading = READY | {"slot": "m/r1", "state": "loading", "load_ratio": 0.4, "emulated": False}
    control.answers["GET /v1/replicas"] = {"replicas": [READY, loading]}
    lines = shardyard("ps").stdout.splitlines()
    assert lines[0].split()[:6] == ["NAME", "MODEL", "ENGINE", "DEVICES", "NODE", "STATE"]
    assert "EMULATED" in lines[1]
    assert "RBLN_ATOM n1/0,1" in lines[1]
    assert "####...... 40%" in lines[2]
    assert len(json.loads(shardyard("ps", "-o", "json").stdout)["replicas"]) == 2


@pytest.mark.parametrize(
    ("change", "word", "code"),
    [
        ({}, "serving", 0),
        ({"models": []}, "idle", 0),
        ({"models": [STATUS["models"][0] | {"replicas_ready": 0}]}, "degraded", 5),
        ({"infeasible": ["replicas of m"]}, "infeasible", 3),
    ],
)
def test_status_says_in_one_word_and_exit_code(
    shardyard: Any, control: FakeControl, change: dict[str, Any], word: str, code: int
) -> None:
    control.answers["GET /v1/status"] = STATUS | change
    done = shardyard("status", "-o", "json")
    assert (done.exit_code, json.loads(done.stdout)["state"]) == (code, word)
    assert word in shardyard("status").stdout


def test_status_lists_problems_with_the_next_command(shardyard: Any, control: FakeControl) -> None:
    problem = {"where": "n1: probe nvidia", "reason": "timed out", "hint": "nvidia-smi"}
    control.answers["GET /v1/status"] = STATUS | {"problems": [problem]}
    assert "n1: probe nvidia: timed out  -> nvidia-smi" in shardyard("status").stdout


def test_devices_of_a_cluster(shardyard: Any, control: FakeControl) -> None:
    inventory = json.loads(encode(load_inventory(LAB)))
    control.answers["GET /v1/inventory"] = {"inventory": inventory, "problems": []}
    assert "FURIOSA_RNGD" in shardyard("devices").stdout
    assert json.loads(shardyard("devices", "-o", "json").stdout)["inventory"] == inventory
    assert shardyard("devices", "-o", "yaml").stdout.startswith("generation: 0\n")


LIVE = {
    "facts": [{"device": "rngd-1/0", "evidence": ["PE 3 failed"], "power_limit_w": 180.0}],
    "readings": {"rngd-1/0": {"power_w": 61.0, "utilisation": 0.25}},
    "bonds": [{"members": ["rngd-1/0", "rngd-1/1"], "link": {"kind": "switch"}}],
}


def test_devices_pass_on_what_is_known_of_each(shardyard: Any, control: FakeControl) -> None:
    inventory = json.loads(encode(load_inventory(LAB)))
    control.answers["GET /v1/inventory"] = {"inventory": inventory, "problems": [], **LIVE}
    told = json.loads(shardyard("devices", "-o", "json").stdout)
    assert {key: told[key] for key in LIVE} == LIVE
    assert "61 W" in shardyard("devices").stdout
    assert "rngd-1/0,1  switch" in shardyard("devices", "--links").stdout


@pytest.mark.parametrize("command", [["devices", "--watch"], ["top"]])
def test_watching_devices_goes_on_until_the_cluster_is_gone(
    shardyard: Any, control: FakeControl, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    class Twice(dict[str, Any]):
        """The controller forgets us after the second answer."""

        def __getitem__(self, route: str) -> Any:
            asked = sum(a.startswith(route) for a, _ in control.asked)
            return (
                super().__getitem__(route)
                if asked <= 2
                else (401, {"code": "control.unauthorized", "message": "no"})
            )

    monkeypatch.setattr(observe, "_WATCH_S", 0.0)
    inventory = json.loads(encode(load_inventory(LAB)))
    control.answers = Twice(
        {
            "GET /v1/inventory": {"inventory": inventory, "problems": [], **LIVE},
            "GET /v1/replicas": {"replicas": [READY | {"devices": ["rngd-1/0"]}]},
        }
    )
    done = shardyard(*command)
    assert done.exit_code == 4
    assert "61/180 W" in done.stdout
    assert "healthy EMULATED: PE 3 failed" in done.stdout


def test_a_file_has_nothing_to_watch(shardyard: Any) -> None:
    done = shardyard("devices", "--inventory", LAB, "--watch")
    assert done.exit_code == 2
    assert "nothing to watch" in done.stderr


def test_logs_and_explain_pass_their_argument_on(shardyard: Any, control: FakeControl) -> None:
    control.answers["GET /v1/logs"] = "line 1\nline 2\n"
    assert shardyard("logs", "m/r0", "-n", "7").stdout == "line 1\nline 2\n"
    assert control.asked[-1][0] == "GET /v1/logs?name=m%2Fr0&lines=7"
    control.answers["GET /v1/explain"] = {"sentences": ["m/r0 is on n1 [because]"]}
    assert shardyard("explain", "m/r0").stdout == "m/r0 is on n1 [because]\n"
    assert control.asked[-1][0] == "GET /v1/explain?about=m%2Fr0"


# -- run ------------------------------------------------------------------------------------------------------------


def sse(*events: Any, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"] * done
    return "".join([": keep-alive\n\n", *lines]).encode()


def piece(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}]}


def test_run_prints_the_answer_as_it_comes(shardyard: Any, control: FakeControl) -> None:
    control.answers["GET /v1/status"] = STATUS | {"endpoint": f"{control.url}/v1"}
    usage = {"choices": [], "usage": {"total_tokens": 3}}
    control.answers["POST /v1/chat/completions"] = sse(piece("Par"), piece("is."), usage)
    done = shardyard("run", "m", "The capital of France?", "--max-tokens", "5")
    assert (done.exit_code, done.stdout) == (0, "Paris.\n")
    body = control.asked[-1][1]
    assert body["messages"] == [{"role": "user", "content": "The capital of France?"}]
    assert (body["model"], body["stream"], body["max_tokens"]) == ("m", True, 5)


def test_run_reads_the_prompt_from_a_pipe(shardyard: Any, control: FakeControl) -> None:
    control.answers["POST /v1/chat/completions"] = sse(piece("ok"))
    done = shardyard("run", "m", "--endpoint", f"{control.url}/v1", stdin="from a pipe")
    assert done.stdout == "ok\n"
    assert control.asked[-1][1]["messages"][0]["content"] == "from a pipe"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (sse(piece("Par"), done=False), "ended before its end"),
        (sse(piece("P"), {"error": {"message": "the replica died", "code": "x"}}), "replica died"),
        ((404, {"error": {"message": "no model m", "code": "model_not_found"}}), "no model m"),
        ((502, "bad gateway"), "the endpoint answered 502"),
    ],
)
def test_run_says_what_went_wrong(
    shardyard: Any, control: FakeControl, answer: Any, says: str
) -> None:
    control.answers["POST /v1/chat/completions"] = answer
    done = shardyard("run", "m", "hi", "--endpoint", f"{control.url}/v1")
    assert done.exit_code == 2
    assert says in done.stderr


def test_run_without_a_gateway_is_unreachable(shardyard: Any) -> None:
    done = shardyard("run", "m", "hi", "--endpoint", "http://127.0.0.1:9/v1")
    assert done.exit_code == 4


# -- setup ----------------------------------------------------------------------------------------------------------


def test_doctor_prints_its_checks(shardyard: Any) -> None:
    done = shardyard("doctor", "-o", "json")
    assert done.exit_code in (0, 5)
    names = [check["check"] for check in json.loads(done.stdout)["checks"]]
    assert {"python", "packages", "ray", "port", "state"} <= set(names)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_scripts_name_the_command(shardyard: Any, shell: str) -> None:
    done = shardyard("completion", shell)
    assert done.exit_code == 0
    assert "_SHARDYARD_COMPLETE" in done.stdout


@pytest.mark.parametrize("kind", ["app", "inventory", "plan"])
def test_schemas_are_printed(shardyard: Any, kind: str) -> None:
    found = json.loads(shardyard("schema", kind).stdout)
    assert found["title"] == f"shardyard {kind}"
    assert "$schema" in found


def test_a_conversation_remembers_and_ends_with_the_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestrator.cli.chat import _converse

    typed = iter(["hello", "  ", "and again"])

    def keyboard(_prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", keyboard)
    heard: list[list[str]] = []

    def answer(messages: list[dict[str, str]]) -> str:
        heard.append([message["content"] for message in messages])
        return f"answer {len(heard)}"

    _converse(answer)
    assert heard == [["hello"], ["hello", "answer 1", "and again"]]
    assert "Ctrl-D" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("devices", "--inventory", LAB),
        ("devices", "--inventory", LAB, "-o", "json"),
        ("devices", "--inventory", LAB, "-o", "yaml"),
        ("schema", "inventory"),
        ("--help",),
    ],
)
def test_a_reader_that_has_seen_enough_is_no_failure(words):
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        said = running.stderr.read()
        assert (running.wait(30.0), said) == (0, b"")


def test_a_broken_pipe_of_our_own_is_a_failure():
    @main.command("breaks")
    def breaks() -> None:
        raise BrokenPipeError("the launcher has gone")

    try:
        done = CliRunner().invoke(main, ["breaks"])
    finally:
        del main.commands["breaks"]
    assert done.exit_code == 1
    assert "the launcher has gone" in done.output
