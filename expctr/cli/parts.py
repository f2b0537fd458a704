"""The finished chunks of a scoring, in the folder `OUT.parts`: an interrupted command goes on from them."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl

from expctr.data.readers.base import POLARS_ERRORS
from expctr.errors import UserError
from expctr.run_folder import LOCK
from expctr.training.lock import Lock, hold
from expctr.untrusted import printable
from expctr.whole_files import replacing, write_parquet

COPY = "pairs.parquet"
"""The rows to score, as they were when the command began."""
_JOB = {
    "pairs": "the pairs",
    "checkpoint": "the checkpoint",
    "data": "the run's data",
    "explain": "--explain",
    "samples": "the number of explanations per row",
}
"""What a job is, and its names in messages."""
_PART = re.compile(r"\.lock|pairs\.parquet|(ranked|scored)-\d{12}\.parquet|.*\.[0-9a-f]{16}\.part")
_CHUNK = re.compile(r"(ranked|scored)-\d{12}\.parquet")


def folder_of_parts(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


class Parts:
    """The folder, held against other commands."""

    def __init__(self, folder: Path, lock: Lock) -> None:
        self.copy = folder / COPY
        self._folder, self._lock = folder, lock

    def begin(self, job: Mapping[str, object]) -> None:
        """Keep the chunks of this job; drop those of another one, and say so.

        Args:
            job: by the keys of `_JOB`, what the scores depend on.
        """
        about, now = self._folder / "job.json", json.loads(json.dumps(job))
        then = _read_job(about)
        if then != now:
            old = [path for path in self._folder.iterdir() if _CHUNK.fullmatch(path.name)]
            changed = [what for key, what in _JOB.items() if then and then.get(key) != now[key]]
            why = f"{' and '.join(changed)} changed since" if changed else "it is not known what they are of"
            if old:
                place = printable(str(self._folder))
                print(f"not gone on with: {len(old):,} finished chunks in {place}, because {why}")
            for path in old:
                path.unlink()
            with replacing(about) as new:
                new.write_text(json.dumps(now))

    def missing(self, name: str, count: int, size: int) -> list[tuple[int, Path]]:
        """The chunks of `size` rows that have no whole part yet: their first rows, and the parts to write."""
        parts = [(start, self._folder / f"{name}-{start:012}.parquet") for start in range(0, count, size)]
        return [(start, path) for start, path in parts if _height(path) != min(size, count - start)]

    def write(self, frame: pl.DataFrame, path: Path, **metadata: str) -> None:
        """Write a part."""
        self.check()
        write_parquet(frame, path, **metadata)

    def check(self) -> None:
        """Refuse to mix the parts of two commands.

        Raises:
            UserError: the folder was moved, and another one may be in its place.
        """
        if not self._lock.holds(self._folder):
            raise UserError(
                f"{self._folder} is no longer the folder that this command began in: that was moved or removed. Fix: "
                "run the command again, with another --out"
            )

    def all(self, name: str) -> list[Path]:
        """The parts of all chunks, in order."""
        self.check()
        return sorted(self._folder.glob(f"{name}-*.parquet"))


@contextmanager
def held_parts(out: Path) -> Iterator[Parts]:
    """The parts of the file `out`. The folder is removed in the end, but for an error.

    Raises:
        UserError: it holds other files, or another command uses it.
    """
    folder = folder_of_parts(out)
    if folder.is_symlink() or (folder.exists() and not all(map(_is_part, folder.iterdir()))):
        raise UserError(
            f"out: {folder}, where unfinished scores would be, holds other files. Fix: choose another --out"
        )
    with hold(folder, "written", "another --out") as lock:
        parts = Parts(folder, lock)
        yield parts
        parts.check()
        for part in filter(_is_part, folder.iterdir()):
            if part.name != LOCK:  # NFS keeps what is open
                part.unlink()
    with suppress(OSError):  # of somebody's file that came meanwhile, or another command
        (folder / LOCK).unlink()
        folder.rmdir()


def _height(path: Path) -> int | None:
    """Rows of a part by its footer; none if it is missing, or cut short, as a crash of the machine may leave it."""
    with suppress(OSError, *POLARS_ERRORS):
        return int(pl.scan_parquet(path, glob=False).select(pl.len()).collect().item())
    return None


def _is_part(path: Path) -> bool:
    """Whether a file in the folder of parts is one of ours."""
    if not path.is_file() or path.name != "job.json":
        return path.is_file() and _PART.fullmatch(path.name) is not None
    return _read_job(path) is not None or _is_blank(path)


def _is_blank(path: Path) -> bool:
    """Whether a crash of the machine has left the file without its content."""
    with path.open("rb") as file:
        return not file.read(1 << 16).strip(b"\0")


def _read_job(path: Path) -> dict[str, object] | None:
    """The job of the parts; `None` if it is missing, or no job of ours."""
    with suppress(OSError, ValueError, RecursionError):
        job = json.loads(path.read_bytes())
        if isinstance(job, dict) and job.keys() in ({*_JOB}, {*_JOB} - {"data"}):
            return job
    return None
