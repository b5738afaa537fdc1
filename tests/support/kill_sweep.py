"""Kill a real sweep at random moments, restart it each time, and compare its results with an undisturbed sweep's.

`python tests/support/kill_sweep.py kills=20 [seed=0] [key=value ...]` runs embedded_smoke; other words go to the sweep
(tests/test_experiments_sweep_kills.py runs a short form). Every third victim is a worker, the others are the sweep.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(out: Path, words: list[str]) -> list[str]:
    return [sys.executable, "-m", "experiments.transfer_sweep", f"out={out}", "jobs=2", *words]


def start(out: Path, words: list[str], env: dict[str, str]) -> subprocess.Popen:
    with open(out.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command(out, words), cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)


def workers_of(out: Path) -> dict[int, int]:
    """pid -> parent of every worker of this folder that is alive."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            state = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, IndexError):
            continue
        if b"experiments.sweep.worker" in words and str(out.resolve()).encode() in words and state[0] not in "ZX":
            found[int(entry.name)] = int(state[1])
    return found


def results(out: Path) -> dict[str, bytes]:
    """matrix.csv, statistics.json, report.md and every file of samples/, by name."""
    files = [out / name for name in ("matrix.csv", "statistics.json", "report.md")]
    return {p.name: p.read_bytes() for p in [*files, *sorted((out / "samples").iterdir())]}


def kill_and_restart(out: Path, words: list[str], env: dict[str, str], *, kills: int, longest: float, seed: int) -> int:
    """Run to the end through `kills` SIGKILLs after up to `longest` seconds each; returns how many cells were kept."""
    rng, done, running = random.Random(seed), 0, start(out, words, env)
    while done < kills:
        try:
            running.wait(rng.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            workers = sorted(workers_of(out))
            if workers and done % 3 == 2:
                os.kill(rng.choice(workers), signal.SIGKILL)  # the sweep starts another
                done += 1
                continue
            running.send_signal(signal.SIGKILL)
            running.wait()
            done += 1
            _expect_no_worker(out)
        else:
            print(f"finished after {done} kills, before the {kills} asked for: started again from the same folder")
        running = start(out, words, env)
    code = running.wait()
    if code:
        raise SystemExit(f"The restarted sweep ended with {code}:\n{out.with_suffix('.log').read_text()[-3000:]}")
    _expect_no_worker(out)
    return done


def _expect_no_worker(out: Path) -> None:
    """Workers die with their parent."""
    until = time.time() + 5
    while workers_of(out):
        if time.time() > until:
            raise SystemExit(f"Workers outlived the sweep: {workers_of(out)}")
        time.sleep(0.05)


def times_computed(out: Path) -> dict[str, int]:
    """cell label -> how often the ledger says it finished."""
    import json

    lines = [json.loads(line) for p in (out / "ledger").glob("*.jsonl") for line in p.read_bytes().splitlines()]
    labels = [line["label"] for line in lines if line["state"] == "finished"]
    return {label: labels.count(label) for label in labels}


def compare(words: list[str], *, kills: int, longest: float, seed: int, folder: Path) -> list[str]:
    """Both sweeps; a line for each thing that differs (none)."""
    env = {**os.environ, "WANDB_MODE": "disabled", "TVP_CACHE": str(folder / "cache")}
    calm, killed = folder / "calm", folder / "killed"
    began = time.time()
    if start(calm, words, env).wait():
        raise SystemExit((folder / "calm.log").read_text()[-3000:])
    print(f"undisturbed: {time.time() - began:.0f} s", flush=True)
    began = time.time()
    done = kill_and_restart(killed, words, env, kills=kills, longest=longest, seed=seed)
    print(f"killed {done} times: {time.time() - began:.0f} s", flush=True)
    a, b = results(calm), results(killed)
    differing = [f"{name} differs" for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    twice = [f"{label} finished {n} times" for label, n in times_computed(killed).items() if n != 1]
    return differing + twice


def main(argv: list[str]) -> int:
    words = dict(word.split("=", 1) for word in argv)
    kills, seed, longest = (
        kind(words.pop(key, d)) for key, kind, d in (("kills", int, 20), ("seed", int, 0), ("longest", float, 40))
    )
    sweep = [f"sweep={words.pop('sweep', 'embedded_smoke')}", *(f"{key}={value}" for key, value in words.items())]
    with tempfile.TemporaryDirectory() as folder:
        different = compare(sweep, kills=kills, longest=longest, seed=seed, folder=Path(folder))
    print("\n".join(different) or f"identical: matrix.csv and samples/ after {kills} kills")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
