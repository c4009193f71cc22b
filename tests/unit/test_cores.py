"""Cores are claimed by one holder at a time, and free again when the holder ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from actors.cores import claim_cores, cpu_list, physical_cores

CORES = ((0, 4), (1, 5), (2, 6), (3, 7))


def test_two_claims_share_no_core(tmp_path: Path) -> None:
    first = claim_cores(2, cores=CORES, folder=tmp_path)
    second = claim_cores(2, cores=CORES, folder=tmp_path)
    assert first.cpus == (0, 4, 1, 5)
    assert second.cpus == (2, 6, 3, 7)


def test_where_too_few_are_free_none_is_taken(tmp_path: Path) -> None:
    first = claim_cores(3, cores=CORES, folder=tmp_path)
    assert claim_cores(2, cores=CORES, folder=tmp_path).cpus == ()
    assert claim_cores(1, cores=CORES, folder=tmp_path).cpus == (3, 7)
    first.release()
    first.release()


def test_released_cores_are_free(tmp_path: Path) -> None:
    claim_cores(4, cores=CORES, folder=tmp_path).release()
    assert len(claim_cores(4, cores=CORES, folder=tmp_path).cpus) == 8


def test_an_engine_on_an_accelerator_claims_none(tmp_path: Path) -> None:
    assert claim_cores(0, cores=CORES, folder=tmp_path).cpus == ()


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from actors.cores import claim_cores;"
        "claim = claim_cores(4, cores=((0,), (1,), (2,), (3,)), folder=Path(sys.argv[1]));"
        "print(len(claim.cpus), flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"4\n"
        assert claim_cores(1, cores=((0,), (1,)), folder=tmp_path).cpus == ()
    finally:
        holder.kill()
        holder.communicate()
    assert claim_cores(1, cores=((0,), (1,)), folder=tmp_path).cpus == (0,)


def test_a_folder_that_cannot_be_written_to_binds_nothing(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    assert claim_cores(1, cores=CORES, folder=taken).cpus == ()


def test_siblings_are_one_core_and_sockets_come_one_after_another(tmp_path: Path) -> None:
    for cpu, (siblings, socket) in enumerate([("0,2", 1), ("1,3", 0), ("0,2", 1), ("1,3", 0)]):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
        (topology / "physical_package_id").write_text(f"{socket}\n")
    assert physical_cores(range(4), tmp_path) == ((1, 3), (0, 2))
    assert physical_cores([0, 3], tmp_path) == ((3,), (0,))
    assert physical_cores([5], tmp_path) == ((5,),)


def test_lists_of_cpus() -> None:
    assert cpu_list("0-1,4,6-7\n") == {0, 1, 4, 6, 7}
    assert cpu_list("") == set()
