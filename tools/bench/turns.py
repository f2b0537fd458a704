"""Turns of systems in their own processes, so that other load on the machine affects all of them alike.

A process works when standard input says so, and answers on standard output with a line of JSON. This file imports only
the standard library, because the peers' environments import it too.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MINIBATCH, PASSES, RANK = 8, 2, 16
"""Of PPO, for TRL and for us: rows of a minibatch, passes over a batch, and the rank of the adapter."""


class Worker:
    """A system in its own process. The constructor waits until the system is ready.

    Args:
        folder: its working directory, which gets `NAME.log`.
        environ: more environment variables.

    Raises:
        RuntimeError: the process ended; with the last line of its output.
    """

    def __init__(
        self, name: str, command: Sequence[object], folder: Path, threads: int, environ: Mapping[str, str] = {}
    ) -> None:
        self.name, self.seconds = name, list[float]()
        self._log = folder / f"{name}.log"
        paths = os.pathsep.join(filter(None, [str(ROOT), environ.get("PYTHONPATH")]))
        own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), str(threads))
        whole = {**os.environ, "TQDM_DISABLE": "1", **own, **environ, "PYTHONPATH": paths}
        with self._log.open("w") as log:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self._process = subprocess.Popen([str(c) for c in command], text=True, env=whole, cwd=folder, **pipes)
        self._answer()

    def turn(self) -> None:
        """Do one unit of work, and keep its time."""
        self.seconds.append(float(self.query("go")))

    def query(self, command: str) -> Any:
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        said = self._log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise RuntimeError(f"{self.name} ended; its last output: {said[-1]}")


def fit_worker(callback: str, options: Mapping[str, object]) -> list[object]:
    """Return the command of `expctr fit` as a worker, with a class of callbacks.py that takes the turns."""
    return [sys.executable, "-m", "tools.bench.callbacks", callback, *(f"--{n}={v}" for n, v in options.items())]


@cache
def channel() -> Callable[[Any], None]:
    """Return a function that answers on standard output; all other output goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda value: print(json.dumps(value), file=out, flush=True)


class Turn:
    """The worker's side: answers with the time since the last `go`, then waits for the next one."""

    _began: float | None = None

    def wait(self, answer_other: Callable[[str], Any]) -> bool:
        """Return whether to go on. Lines other than `go` are answered by `answer_other`."""
        answer = "ready" if self._began is None else time.perf_counter() - self._began
        ctypes.CDLL(None).malloc_trim(0)  # malloc would keep freed memory while others have their turn
        channel()(answer)
        for line in sys.stdin:
            if line.strip() == "go":
                self._began = time.perf_counter()
                return True
            channel()(answer_other(line.strip()))
        return False


def install(packages: Sequence[str], folder: Path) -> None:
    """Install packages without their dependencies into a folder for PYTHONPATH, unless it has them.

    Raises:
        CalledProcessError: pip failed.
    """
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(packages):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--upgrade", "--target", folder, *packages], check=True)
        stamp.write_text("\n".join(packages))


def memory_gb(kind: str = "VmHWM") -> float:
    """Return the peak memory of this process in GiB; with VmRSS what it holds now.

    `getrusage` would be wrong: there, a process inherits the peak of the process that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{kind}:")[1].split()[0]) / 2**20
