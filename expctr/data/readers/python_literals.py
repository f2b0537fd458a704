"""Dictionaries written as Python literals, one per line, as in the Amazon metadata of 2014.

`ast.literal_eval` builds a syntax tree of the whole line, which takes ten times as long as all other work. Here a regular
expression splits a line into its keys and values, and only the values that are wanted are evaluated. The expression
accepts less than Python does: `'key': value` with one space after each colon and comma, as `repr` writes it, and values
nested no deeper than a dictionary of lists. A line that it does not match is parsed by `ast.literal_eval` as a whole.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

# Possessive quantifiers (`*+`) never try a shorter match. So the time is linear in the length, whatever the line holds.
_ESCAPE = r"""\\(?:['"\\abfnrtv]|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4})"""
_SINGLE, _DOUBLE = r"[^'\\\n\r\0]*+", r'[^"\\\n\r\0]*+'
_STRING = rf"""(?:'{_SINGLE}'|'{_SINGLE}(?:{_ESCAPE}{_SINGLE})*+'|"{_DOUBLE}(?:{_ESCAPE}{_DOUBLE})*+")"""
_NUMBER = r"-?(?:0|[1-9][0-9]{0,15}+)(?:\.[0-9]++)?+(?:e[-+]?[0-9]{1,3}+)?+"
_SCALAR = rf"(?:{_STRING}|{_NUMBER}|None|True|False)"
_LIST = rf"\[(?:{_SCALAR}(?:, {_SCALAR})*+)?+\]"
_LISTS = rf"\[{_LIST}(?:, {_LIST})*+\]"
_PAIR = rf"{_STRING}: (?:{_SCALAR}|{_LIST})"
_VALUE = rf"(?:{_SCALAR}|{_LIST}|{_LISTS}|\{{(?:{_PAIR}(?:, {_PAIR})*+)?+\}})"
_PAIRS = re.compile(rf"('{_SINGLE}'): ({_VALUE})(?=, '|\}}$)")


def parse_literal(line: str, keys: Sequence[str]) -> Mapping[str, object] | None:
    """The values of some keys of a dictionary; None if the line is not in the plain form that `repr` writes.

    What is returned is what `ast.literal_eval` returns for these keys. Of a repeated key the last value counts.
    """
    pairs = _PAIRS.findall(line)
    if "{" + ", ".join([f"{key}: {value}" for key, value in pairs]) + "}" != line:
        return None
    found = {key[1:-1]: value for key, value in pairs}
    return {key: _evaluate(found[key]) for key in keys if key in found}


def _evaluate(value: str) -> object:
    if value[0] in "'\"" and "\\" not in value:
        return value[1:-1]
    return _evaluated(value)


@lru_cache(maxsize=1 << 12)  # most values other than titles are those of many items
def _evaluated(value: str) -> object:
    return ast.literal_eval(value)
