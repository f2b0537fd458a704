"""Literals that are split must mean what `ast.literal_eval` reads in them; everything else is refused."""

import ast
import random

import pytest

from expctr.data.readers.python_literals import split_literal

ALPHABET = ("a", "é", "😀", "'", '"', "\\", "\n", "\r", "\t", "\0", "{", "}", "[", "]", ": ", ", ", "': ", "', '", "#")


def draw_text(draw: random.Random) -> str:
    return "".join(draw.choices(ALPHABET, k=draw.randrange(6)))


def draw_value(draw: random.Random, depth: int = 2) -> object:
    kinds = [draw_text(draw), draw.choice([0, -7, 10**9, 2.5, 1e-7, 1e300, None, True, False])]
    if depth:
        kinds.append([draw_value(draw, depth - 1) for _ in range(draw.randrange(3))])
        kinds.append({draw_text(draw): draw_value(draw, depth - 1) for _ in range(draw.randrange(3))})
    return draw.choice(kinds)


def agrees(line: str) -> bool:
    """Whether the line was split; if so, it must agree with Python."""
    sources = split_literal(line)
    if sources is None:
        return False
    whole = ast.literal_eval(line)
    assert {key: ast.literal_eval(source) for key, source in sources.items()} == whole
    assert all(
        source[1:-1] == whole[key] for key, source in sources.items() if source[0] in "'\"" and "\\" not in source
    )
    return True


def test_what_repr_writes_is_split_and_agrees() -> None:
    draw = random.Random(0)
    keys = ("asin", "title", "é", "a b")
    lines = [repr({draw.choice((*keys, draw_text(draw))): draw_value(draw) for _ in keys}) for _ in range(1500)]
    assert sum(map(agrees, lines)) > 500  # the others have keys with escapes, or are nested more deeply
    assert agrees(repr({"asin": "1", "related": {"also": ["a", "b"]}, "categories": [["x", "y"], []], "price": 1.5}))


def test_a_damaged_line_is_refused_or_agrees() -> None:
    draw = random.Random(1)
    for _ in range(3000):
        line = repr({"a": draw_value(draw), "b": draw_text(draw), "c": [[draw_text(draw)]]})
        place = draw.randrange(len(line))
        agrees(
            line[:place]
            + draw.choice((*ALPHABET, "", "x", "0", ",", " ", "\\x4", "u"))
            + line[place + draw.randrange(3) :]
        )


@pytest.mark.parametrize(
    "line",
    [
        "{'a': 007}",
        "{'a': '\\x4'}",
        "{'a': '\\ud8'}",
        "{'a': '\\N{DASH}'}",
        "{'a': [1,]}",
        "{'a': 1,}",
        "{'a': 1 'b': 2}",
        "{'a': f'b'}",
        "{'a': 'b' 'c'}",
        "{'a': {1: 2}}",
        "{'a': {'b': {'c': 1}}}",
        "{'a': open('b')}",
        "{'a': 1} + {}",
        "{'a': '\0'}",
        "{'a'}",
        "{" + "'a': [" * 5000,
        "{" + "'a': {'b': 1, " * 5000,
    ],
)
def test_what_is_doubtful_is_refused(line: str) -> None:
    assert split_literal(line) is None


def test_of_a_repeated_key_the_last_value_counts() -> None:
    assert split_literal("{'a': 'b', 'a': 1}") == {"a": "1"}
    assert split_literal("{}") == {}
