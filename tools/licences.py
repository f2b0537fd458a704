"""The licence of every package that expctr, its tests and its tools need: `python -m tools.licences`.

Ends with exit code 1 if one is unknown, or has no word of `ALLOWED`.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
ALLOWED = {
    *("Apache", "BSD", "BSL", "CC0", "CMU", "CNRI", "HPND", "ISC", "ISCL", "MIT", "MPL", "Mozilla", "PSF", "Python"),
    *("Unlicense", "Zlib", "0BSD"),
}
"""Words of licences on which a project under Apache-2.0 may depend."""


def main() -> None:
    """Print the packages of each licence."""
    packages: defaultdict[str, list[str]] = defaultdict(list)
    for name, found in sorted(installed(requirements()).items()):
        packages[licence(found)].append(f"{name} {found.version}")
    for name, users in sorted(packages.items()):
        print(f"{name} ({len(users)}): {', '.join(users)}")
    if refused := [name for name in packages if not is_allowed(name)]:
        raise SystemExit(f"look at these licences, and add those that may be used to ALLOWED: {'; '.join(refused)}")


def requirements() -> list[Requirement]:
    """What pyproject.toml names, in all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = chain(project["dependencies"], *project["optional-dependencies"].values())
    return [needed for needed in map(Requirement, texts) if needed.name != project["name"]]


def installed(needed: Iterable[Requirement]) -> dict[str, Distribution]:
    """The installed packages that these requirements bring, directly or not, by canonical name."""
    found: dict[str, Distribution] = {}
    waiting = [(canonicalize_name(one.name), extra) for one in needed for extra in ("", *one.extras)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # for another system
            continue
        for one in map(Requirement, found[name].requires or ()):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                fresh = {(canonicalize_name(one.name), wanted) for wanted in ("", *one.extras)} - seen
                waiting += fresh
                seen |= fresh
    return found


def licence(package: Distribution) -> str:
    """A package's licence: its SPDX expression, else its classifiers, else the first line of its licence field."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return expression
    classified = [text.split(" :: ")[-1] for text in about.get_all("Classifier") or () if text.startswith("License ::")]
    if named := ", ".join(name for name in classified if name != "OSI Approved"):
        return named
    return (about.get("License") or "unknown").strip().splitlines()[0]


def is_allowed(name: str) -> bool:
    """Whether each part of a licence has a word of `ALLOWED`; of alternatives, one."""
    parts = re.split(r",|\bAND\b", name)
    return all(ALLOWED & set(re.findall(r"\w+", part)) for part in parts)


if __name__ == "__main__":
    main()
