"""Systems in processes of their own that take turns, so that whatever else the machine does falls on all alike.

A process works when standard input says so, and answers on standard output with a line of JSON. Nothing here imports
more than Python: the peers' environments read this file too.
"""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


class Worker:
    """A system in a process of its own, once it is ready.

    Args:
        name: of the system.
        command: what runs it.
        folder: where it runs, and where `NAME.log` goes.
        threads: it may use.
        environ: further variables.

    Raises:
        RuntimeError: it ended, with the last line it said.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[object],
        folder: Path,
        threads: int,
        environ: Mapping[str, str] = {},
    ) -> None:
        self.name, self.seconds = name, list[float]()
        self._log = folder / f"{name}.log"
        paths = os.pathsep.join(filter(None, [str(ROOT), str(HERE), environ.get("PYTHONPATH")]))
        own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"), str(threads))
        whole = {**os.environ, "TQDM_DISABLE": "1", **own, **environ, "PYTHONPATH": paths}
        with self._log.open("w") as log:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self._process = subprocess.Popen([str(c) for c in command], text=True, env=whole, cwd=folder, **pipes)
        self._answer()

    def turn(self) -> None:
        """Let it work once, and keep its time."""
        self.seconds.append(float(self.ask("go")))

    def ask(self, command: str) -> Any:
        """Say something and wait for the answer."""
        assert self._process.stdin is not None
        print(command, file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        """Let it go."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        said = self._log.read_text(errors="replace").strip().splitlines() or ["nothing"]
        raise RuntimeError(f"{self.name} ended, saying: {said[-1]}")


def channel() -> Callable[[Any], None]:
    """A worker's way to answer on standard output, which everything else is kept off."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda value: print(json.dumps(value), file=out, flush=True)


def install(packages: Sequence[str], folder: Path) -> None:
    """Put packages, without what they depend on, into a folder for PYTHONPATH, unless these are there.

    Raises:
        CalledProcessError: pip could not.
    """
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(packages):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--upgrade", "--target", folder, *packages], check=True)
        stamp.write_text("\n".join(packages))


def rest() -> None:
    """Give freed memory back to the machine, which malloc keeps, while others have their turn."""
    ctypes.CDLL(None).malloc_trim(0)


def peak_gb() -> float:
    """Most memory that this process held, in GiB.

    Not `getrusage`'s number: a process that another one starts inherits that one's peak there.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20
