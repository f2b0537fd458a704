"""What whole commands unpickle, by Python's audit events: nothing."""

import sys
from pathlib import Path
from typing import Any

import pytest
import running
from running import World, expctr


def watched(line: list[str], seen: str, log: str) -> None:
    """Run `expctr LINE`, and write each class that an unpickler looks up into a file."""

    def note(event: str, args: tuple[Any, ...]) -> None:
        if event == "pickle.find_class":
            with Path(seen).open("a", encoding="utf-8") as file:
                file.write(f"{args[0]}.{args[1]}\n")

    sys.addaudithook(note)
    running._work(line, {}, log)


@pytest.mark.slow
def test_no_command_unpickles_anything(world: World, tmp_path: Path) -> None:
    """Torch's loading of weights has no such event: it does not unpickle."""
    options = world.options("watched")
    expctr("fit", *options, "--trainer.limit_train_batches=1").ok()
    run, choice = world.folder / "watched", ["--liked=Film 1, The", "--target=Film 2, The"]
    lines = [
        ["fit", *options, "--ckpt_path=last"],
        ["test", *options],
        ["predict", *options],
        ["explain", str(run), *choice],
        ["export", str(run), f"--out={tmp_path / 'export'}"],
        ["report", str(run)],
    ]
    for line in lines:
        seen, log = tmp_path / f"{line[0]}.seen", tmp_path / f"{line[0]}.log"
        work = running.server().Process(target=watched, args=(line, str(seen), str(log)))
        work.start()
        work.join(running.LIMIT)
        assert work.exitcode == 0, log.read_text(encoding="utf-8")
        assert not seen.exists(), f"{line[0]}: {seen.read_text(encoding='utf-8')}"


@pytest.mark.slow
def test_the_watch_notices(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    line = ["--version"]
    work = running.server().Process(target=unpickle, args=(line, str(seen), str(tmp_path / "log")))
    work.start()
    work.join(running.LIMIT)
    assert "collections.Counter" in seen.read_text(encoding="utf-8")


def unpickle(line: list[str], seen: str, log: str) -> None:
    """As `watched`, with a pickle after it."""
    import pickle
    from collections import Counter

    try:
        watched(line, seen, log)
    finally:
        pickle.loads(pickle.dumps(Counter()))  # noqa: S301
