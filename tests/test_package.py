"""The wheel and the editable install, each in a new environment that borrows the dependencies of this one."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import expctr

ROOT = Path(__file__).parents[1]


class Environment:
    """A virtual environment with expctr installed and the packages of this one on its path."""

    def __init__(self, folder: Path, *install: object) -> None:
        run([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
        self.bin = folder / "bin"
        (site,) = (folder / "lib").glob("python*/site-packages")
        borrowed = [path for path in sys.path if path.endswith("-packages")]  # with the build backend
        (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet", "--no-deps"]
        run([*pip, "--no-index", "--no-build-isolation", *install], folder.parent)

    def __call__(self, *args: object, cwd: Path) -> str:
        """Run a program of the environment and return what it printed."""
        return run([self.bin / str(args[0]), *args[1:]], cwd)


def run(line: list[object], cwd: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, line)], cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT], ROOT
    )
    (file,) = folder.glob("*.whl")
    return Environment(folder / "env", file)


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("editable") / "env", "--editable", ROOT)


def test_the_wheel_has_version_and_configs(wheel: Environment, tmp_path: Path) -> None:
    assert wheel("expctr", "--version", cwd=tmp_path) == f"expctr {expctr.__version__}\n"
    listed = [line.split()[0] for line in wheel("expctr", "configs", cwd=tmp_path).splitlines()]
    configs = ROOT / "configs"
    assert sorted(listed) == sorted(str(path.relative_to(configs))[:-5] for path in configs.rglob("*.yaml"))
    wheel("expctr", "configs", "quickstart", cwd=tmp_path)
    assert (tmp_path / "quickstart.yaml").read_bytes() == (configs / "quickstart.yaml").read_bytes()


def test_the_wheel_gives_a_first_answer(wheel: Environment, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    choice = ["--liked", "Heat|Fargo", "--disliked", "Casper", "--target", "Seven"]
    answer = json.loads(wheel("expctr", "explain", *choice, "--json", "true", cwd=tmp_path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert answer["explanation"]
    assert answer["trained"] is False
    # of the processors, which other programs slow down, too; alone it is a quarter of this
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_finds_its_configs_by_name(wheel: Environment, tmp_path: Path) -> None:
    text = wheel("expctr", "fit", "--config", "quickstart", "--config=plus.yaml", "--print_config", cwd=tmp_path)
    assert "default_root_dir: runs/quickstart" in text


@pytest.mark.cli
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_importing_beside_a_clone_finds_the_installed_package(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A folder `expctr` without `__init__.py` is a namespace package, which the installed one must win over."""
    environment: Environment = request.getfixturevalue(kind)
    (tmp_path / "expctr").symlink_to(ROOT)
    code = "import expctr; from expctr import errors; print(expctr.__file__, expctr.__version__)"
    file, version = environment("python", "-c", code, cwd=tmp_path).split()
    assert version == expctr.__version__
    assert (Path(file) == ROOT / "expctr/__init__.py") == (kind == "editable")
    configs = environment("expctr", "configs", cwd=tmp_path)
    assert "quickstart" in configs
