"""The Ray engine: any cluster gives the local engine's bytes, a dead actor loses its cell only, and nothing hangs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.sweep_engines import PretendingActor, results, tiny_sweep
from support.sweep_runs import sweep_cell

from experiments.sweep import engines
from experiments.sweep.engines import ray_actor, ray_cluster, ray_engine
from experiments.sweep.engines.local import run_local
from experiments.sweep.folder import SweepFolder
from experiments.sweep.leases import process_mark, read_leases
from lightning_modules.code_version import ROOT

OPTIONS = {"jobs": "0", "gpus": 1, "address": "", "slurm": ""}
TESTS = str(Path(__file__).parent)


@pytest.fixture
def pretending(tmp_path, monkeypatch):
    """A sweep whose cells do what their method says."""
    monkeypatch.setattr(ray_engine, "SweepActor", PretendingActor)
    monkeypatch.setenv("PYTHONPATH", TESTS)

    def make(*methods):
        cells = [
            sweep_cell(c, seed=i)._replace(method=m) for i, (c, m) in enumerate(zip("abcd", methods, strict=False))
        ]
        folder = SweepFolder(tmp_path / "out", create="s")
        return folder, cells, folder.write_plan(cells, {"sweep": "s", "label": ""})

    return make


def processes(mine: str) -> dict[int, str]:
    """pid -> name of the processes of this host that have `mine` in their environment, this one left out."""
    found = [p for p in Path("/proc").glob("[0-9]*") if p.name != str(os.getpid()) and _has(p, mine.encode())]
    return {int(p.name): _name(p) for p in found}


def gone(mine: str, *, but: str = "nothing", within: float = 30) -> bool:
    """No such process is left, those named `but` not counted."""
    until = time.time() + within
    while time.time() < until:
        if not [name for name in processes(mine).values() if but not in name]:
            return True
        time.sleep(0.2)
    return False


def _name(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().decode()
    except OSError:
        return ""


def _has(process: Path, mine: bytes) -> bool:
    try:
        return mine in (process / "environ").read_bytes() and process_mark(int(process.name)) is not None
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """`auto`: two nodes with a core each. Ray's own helpers have 15 s to start, so a busy host tries again."""
    from ray.cluster_utils import Cluster

    patch, mine = pytest.MonkeyPatch(), f"ray-{os.getpid()}-{tmp_path_factory.mktemp('cluster')}"
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("TVP_TEST_RAY", mine)
    room = {"num_cpus": 1, "object_store_memory": ray_cluster.STORE, "include_dashboard": False}
    for attempt in range(4):
        made = Cluster()
        try:
            made.add_node(**room)
            made.add_node(**room)
            break
        except Exception as error:
            made.shutdown()
            ray_cluster.end_half_started(error)
            if attempt == 3:
                raise
    patch.setenv("RAY_ADDRESS", made.address)
    yield "auto"
    made.shutdown()
    patch.undo()
    assert gone(mine), "processes of Ray were left behind"


@pytest.mark.slow
def test_dead_actors_are_replaced_and_a_deadly_cell_is_given_up(cluster, pretending):
    folder, cells, plan = pretending("deadly", "once", "ok")
    ray_engine.run_ray(folder, plan, OPTIONS | {"address": cluster}, lambda: None)
    assert [folder.states()[cell.id]["state"] for cell in cells] == ["failed", "finished", "finished"]
    assert "died 3 times (its process ended, out of memory?)" in folder.states()[cells[0].id]["error"]
    assert [p.name for p in folder.leases.iterdir()] == [".lock"]  # no lease and no call is left


@pytest.mark.slow
def test_two_nodes_and_a_worker_killed_in_mid_cell_give_the_local_engines_bytes(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("TVP_CACHE", str(tmp_path / "cache"))
    folder, cells, plan = tiny_sweep(tmp_path / "ray")
    killed, seen = [], set()

    def kill():
        """SIGKILL to the actor that trains, when it has written a checkpoint."""
        for key, lease in read_leases(folder.leases).items():
            cell = next(cell for cell in cells if cell.id == key)
            seen.add(lease["worker"])
            if not killed and (folder.cells / cell.folder / "checkpoints" / "last.ckpt").exists():
                os.kill(lease["pid"], signal.SIGKILL)
                killed.append(lease)

    ray_engine.run_ray(folder, plan, OPTIONS | {"address": cluster}, kill)
    assert killed and len(seen) >= 2 and folder.states()[cells[1].id]["worker"] != killed[0]["worker"]
    assert "Continuing" in (folder.logs / f"{cells[1].folder}.log").read_text()
    local, cells, plan = tiny_sweep(tmp_path / "local")
    run_local(local, plan, {"jobs": "2"}, lambda: None)
    assert results(folder, cells) == results(local, cells)


@pytest.mark.slow
def test_ctrl_c_stops_every_cell_cleanly_on_all_nodes(cluster, pretending):
    folder, cells, plan = pretending("slow", "slow")

    def interrupt():
        if len(read_leases(folder.leases)) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ray_engine.run_ray(folder, plan, OPTIONS | {"address": cluster}, interrupt)
    assert {p.name for p in folder.path.glob("stopped-*")} == {f"stopped-{cell.label}" for cell in cells}
    assert [p.name for p in folder.leases.iterdir()] == [".lock"]


@pytest.mark.slow
def test_actors_and_the_cluster_die_with_a_killed_driver(pretending, monkeypatch):
    folder, _, plan = pretending("slow")
    monkeypatch.setenv("TVP_TEST_RAY", mine := f"ray-{os.getpid()}-driver")
    words = (
        "import sys; from experiments.sweep.engines import ray_engine as e;"
        "from experiments.sweep.folder import SweepFolder;"
        "from support.sweep_engines import PretendingActor; e.SweepActor = PretendingActor;"
        f"e.run_ray(SweepFolder(sys.argv[1]), sys.argv[2], {OPTIONS}, lambda: None)"
    )
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{TESTS}")
    driver = subprocess.Popen([sys.executable, "-c", words, str(folder.path), plan])
    until = time.time() + 300
    while not read_leases(folder.leases):
        assert driver.poll() is None and time.time() < until
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    assert gone(mine, but="Agent"), "an actor or the cluster outlived the driver"
    for agent in processes(mine):  # Ray's own look for their parent once a minute
        with suppress(ProcessLookupError):
            os.kill(agent, signal.SIGKILL)


# ---- in milliseconds: what a cluster has room for, messages, being called off ----------------------------------------
def test_room_is_counted_host_by_host():
    big, small = {"CPU": 8.0, "GPU": 2.0, "memory": 64.0 * 2**30}, {"CPU": 4.0, "memory": 4.5 * 2**30}
    nodes = [{"Resources": big}, {"Resources": small}]
    assert (
        ray_cluster.slots(nodes, 1.0) == 2 and ray_cluster.slots(nodes, 0.5) == 4 and ray_cluster.slots(nodes, 2) == 1
    )
    assert ray_cluster.slots(nodes, 0.1) == 8  # every worker needs a core
    assert ray_cluster.slots(nodes, 0) == 8 + 2  # and 2 GiB


def test_a_start_that_failed_leaves_no_process_behind_and_says_so(monkeypatch):
    ended = []

    class Node:
        def __init__(self):
            raise RuntimeError("The current node timed out during startup.")

        def kill_all_processes(self, **_):
            ended.append(self)

    monkeypatch.setattr(ray_cluster.ray, "init", lambda **_: Node())
    with (
        pytest.raises(ValueError, match=r"Ray did not start on this host \(The current node timed out.*engine=local"),
        ray_cluster.connected("", 0),
    ):
        pass
    assert len(ended) == ray_cluster.ATTEMPTS


@pytest.mark.parametrize("gpus", [1.5, -1])
def test_shares_of_a_gpu_are_checked(gpus):
    with pytest.raises(ValueError, match=rf"share of one GPU \(0.5\) or a whole number of them, got gpus={gpus}"):
        engines.worker_gpus(gpus)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"engine=ray needs the package ray. .*pip install -e '.\[ray\]'"):
        engines.load_engine("ray")


@pytest.mark.parametrize("address", ["here", "ray://host:1", "host:port"])
def test_an_address_has_a_form(address):
    with pytest.raises(ValueError, match=f"Expected address=auto or address=HOST:PORT .* got '{address}'"):
        ray_cluster.check_reachable(address)


def test_nobody_at_the_address_is_said_at_once():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match=r"No Ray cluster at address=127.0.0.1:.*refused.*ray start --head"):
            ray_cluster.check_reachable(f"127.0.0.1:{unused.getsockname()[1]}")


def test_a_silent_address_has_a_time_limit(monkeypatch):
    monkeypatch.setattr(ray_cluster, "JOIN", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ValueError, match=r"No Ray cluster .*no answer within 1 s"):
            ray_cluster.check_reachable(f"127.0.0.1:{silent.getsockname()[1]}")


def test_a_host_that_does_not_share_the_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_actor, "SEEN", 0.0)
    SweepFolder(tmp_path, create="a folder of the same name on another disk")
    actor = ray_actor.SweepActor(str(tmp_path), "0" * 16, "ray0", "0" * 32, str(tmp_path))
    with pytest.raises(ValueError, match=rf"{socket.gethostname()} does not see .*{tmp_path}.* must share it"):
        actor.hello()


def test_an_actor_that_is_called_off_interrupts_its_cell(tmp_path, monkeypatch):
    folder = SweepFolder(tmp_path, create="s")
    reached = []

    def busy(*_, **__):
        call.off()
        try:
            time.sleep(20)
        except KeyboardInterrupt:
            reached.append(True)
            raise

    monkeypatch.setattr(ray_actor, "work", busy)
    with ray_actor.Call(folder.leases) as call:
        actor = ray_actor.SweepActor(str(tmp_path), "", "ray0", call.token, str(tmp_path))
        threading.Thread(target=actor._listen, daemon=True).start()
        assert actor.work() == 0 and reached and actor.stopped
