"""The configs that ship with the package, and `expctr configs`, which lists them and copies one out."""

import argparse
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import yaml  # type: ignore[import-untyped]

import expctr
from expctr.errors import UserError, exit_with_error

PACKAGE = Path(expctr.__file__).parent


def main(args: Sequence[str]) -> None:
    """Run `expctr configs`."""
    parser = argparse.ArgumentParser(
        prog="expctr configs", description="List the configs that ship with expctr, or copy one to edit it."
    )
    parser.add_argument("name", nargs="?", help="the config to copy, for example quickstart")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the copy; default NAME.yaml in this folder")
    options = parser.parse_args(args)
    if options.name is None:
        names = packaged_configs()
        width = max(map(len, names))
        print("\n".join(f"{name:{width}}  {describe(path)}" for name, path in names.items()))
        return
    try:
        print(copy_config(options.name, options.out))
    except UserError as error:
        exit_with_error(error)


def packaged_configs() -> dict[str, Path]:
    """The configs by name; those in a folder are called FOLDER/NAME. A clone has them beside the package."""
    folder = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def describe(path: Path) -> str:
    """The comment in a config's first line."""
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def find_config(name: str) -> Path:
    """The packaged config of a bare name (`quickstart`), else the file of that name, else `configs/quickstart.yaml`.

    A bare name never means a file: one in a folder of data from a stranger would set any option.

    Raises:
        UserError: there is neither.
    """
    configs = packaged_configs()
    if name in configs:
        return configs[name]
    if Path(name).exists() and not Path(name).is_dir():
        return Path(name)
    plain = name.removesuffix(".yaml").removeprefix("configs/")
    if plain in configs:
        return configs[plain]
    near = get_close_matches(plain, configs, 3)
    hint = f"give one of the nearest, {', '.join(near)}" if near else "choose one that expctr configs lists"
    raise UserError(f"config: there is no file {name}, and no packaged config of that name. Fix: {hint}")


def check_config(path: Path) -> None:
    """Check that a config is YAML with options, each given once.

    Raises:
        UserError: it is no text, is not YAML, has no options, or gives one twice (YAML would take the last).
    """
    if not path.is_file():  # a stream can be read only once
        return
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except UnicodeDecodeError as error:
        raise UserError(f"config: {path} is not UTF-8 text. Fix: save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"config: {path} cannot be read: {error.strerror}. Fix: check its permissions") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise UserError(f"config: {path} is not YAML: {reason}. Fix: correct it, or restore it") from error
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"config: {path} holds no options. Fix: write them as NAME: VALUE, or leave it out")
    _check_names(root, path, "", set())


def _check_names(node: yaml.Node, path: Path, above: str, done: set[int]) -> None:
    if id(node) in done or isinstance(node, yaml.ScalarNode):  # an alias may be used many times, and inside itself
        return
    done.add(id(node))
    seen: set[str] = set()
    for child in node.value:
        if isinstance(node, yaml.SequenceNode):
            _check_names(child, path, above, done)
            continue
        key, value = child
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            line = key.start_mark.line + 1
            raise UserError(f"config: {path} gives {above}{key.value} twice, again in line {line}. Fix: join the two")
        name = str(key.value) if isinstance(key, yaml.ScalarNode) else ""
        seen.add(name)
        _check_names(value, path, f"{above}{name}.", done)


def copy_config(name: str, out: Path | None = None) -> Path:
    """Copy a packaged config to a new file, by default NAME.yaml in the working folder; return its path.

    Raises:
        UserError: there is no such config, or the file exists already.
    """
    source = find_config(name)
    out = out or Path(source.name)
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(source.read_text(encoding="utf-8"))
    except FileExistsError:
        raise UserError(f"{out} exists already and was not changed. Fix: choose another file with --out") from None
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error
    return out
