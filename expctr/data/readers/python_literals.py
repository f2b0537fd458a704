"""Dictionaries written as Python literals, one per line, as in the Amazon metadata of 2014.

`ast.literal_eval` builds a syntax tree of a whole line, which takes ten times as long as this. A regular expression
splits the line into keys and values, so that only the values that are wanted are evaluated. It accepts less than
Python does: `'key': value` with one space after each colon and comma, as `repr` writes it, and values that are nested
no deeper than a dictionary of lists. The caller parses other lines as a whole.
"""

import re

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


def split_literal(line: str) -> dict[str, str] | None:
    """The values of a dictionary as their source text; None if the line is not in the plain form that `repr` writes.

    `ast.literal_eval` of a value is what it returns for this key of the whole line. Of a repeated key the last value
    counts, as in Python.
    """
    pairs = _PAIRS.findall(line)
    if "{" + ", ".join([f"{key}: {value}" for key, value in pairs]) + "}" != line:
        return None
    return {key[1:-1]: value for key, value in pairs}
