"""The commands that answer at once, and the overview of all commands."""

import os
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

import expctr
from expctr.__main__ import COMMANDS, main
from expctr.cli.app import ExpCTRCLI


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_the_overview_lists_every_command(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(args)
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(listed) == sorted([*ExpCTRCLI.subcommands(), "report", "serve", "configs"])


def test_ctrl_c_while_a_command_is_imported_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("expctr.cli.configs.main", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["configs"])
    assert (ended.value.code, capsys.readouterr().err) == (130, "stopped\n")


def test_a_current_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 2


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"expctr {expctr.__version__}\n"


def test_a_console_without_a_character_shows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of Windows, or its file: the results below a title in Hebrew would be lost."""
    streams = [TextIOWrapper(BytesIO(), encoding="cp1252", write_through=True) for _ in range(2)]
    for name, stream in zip(("stdout", "stderr"), streams, strict=True):
        monkeypatch.setattr(sys, name, stream)
    main(["--version"])
    for stream in streams:
        stream.write("AUC ↑ שלום é")
        assert stream.buffer.getvalue().endswith(b"AUC ? ???? \xe9")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "hint"), [("fitt", "did you mean fit?"), ("zzz", f"the commands are {', '.join(COMMANDS)}")]
)
def test_a_misspelt_command_is_answered_with_the_nearest(
    command: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--config", "quickstart"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: there is no command {command!r}; {hint}\n"


def test_no_command_waits_for_a_library_that_it_does_not_need() -> None:
    code = """
import sys
from expctr.__main__ import main

main([])
main(["--version"])
main(["configs"])
assert not {"torch", "lightning", "polars"} & set(sys.modules)
from expctr.cli import app

assert not {"peft", "bitsandbytes", "sentence_transformers"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_process_that_the_command_starts_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "struct.py").write_text("print('imported from the current folder')")  # which `spawn` itself needs
    script = tmp_path / "command.py"
    script.write_text("""
import multiprocessing
from expctr.__main__ import main

if __name__ == "__main__":
    main()
    work = multiprocessing.get_context("spawn").Process(target=print, args=("started",))
    work.start()
    work.join()
""")
    environ = {**os.environ, "PYTHONPATH": str(Path(expctr.__file__).parents[1])}
    line = [sys.executable, script, "--version"]
    done = subprocess.run(line, cwd=here, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"expctr {expctr.__version__}", "started"], done.stderr


def test_a_model_that_loads_fast_draws_no_bar() -> None:
    code = """
from expctr.__main__ import silence_libraries

silence_libraries()
from tqdm.auto import tqdm

print(sum(tqdm(range(5), desc="Loading weights")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("10\n", "")
