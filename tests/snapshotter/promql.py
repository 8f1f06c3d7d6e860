"""As much of PromQL as a dashboard's expressions need: which metrics are asked for, and which labels of them.

It reads names, not meanings: what stands in braces belongs to the metric before it; what is grouped or matched by
counts for all metrics of the expression.
"""

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r'\s+|(?P<string>"(?:[^"\\]|\\.)*")|(?P<range>\[[^\]]*\])|(?P<number>\d+(?:\.\d+)?)'
    r"|(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){},])"
)
_RANGE = re.compile(r"\[(\d+[smhdw]|\$__rate_interval|\$__range|\$__interval)\]")
_GROUPING = frozenset({"by", "without", "on", "ignoring"})
_FUNCTIONS = frozenset({
    "count", "histogram_quantile", "increase", "label_values", "max", "min", "rate", "sum", "time", "vector",
})  # fmt: skip
_OPERATORS = frozenset({"and", "or", "unless"})


@dataclass(frozen=True, slots=True)
class Query:
    """Metrics with the labels that their braces name, and labels that group or match."""

    metrics: tuple[tuple[str, frozenset[str]], ...]
    grouping: frozenset[str]


def parse(text: str) -> Query:
    """The names of an expression. ValueError where it is none, as far as that is seen here."""
    tokens, metrics, grouping = _tokens(text), list[tuple[str, frozenset[str]]](), set[str]()
    at = 0
    while at < len(tokens):
        token, following = tokens[at], tokens[at + 1] if at + 1 < len(tokens) else ""
        at += 1
        if token in _GROUPING:
            names, at = _until(tokens, at, "(", ")")
            grouping |= {name for name in names if name != ","}
        elif token in _OPERATORS or not re.match(r"[a-zA-Z_:]", token):
            continue
        elif following == "(" or following in _GROUPING:
            if token not in _FUNCTIONS:
                raise ValueError(f"{token} is no function that is known here: {text}")
        elif following == "{":
            inside, at = _until(tokens, at, "{", "}")
            metrics.append((token, frozenset(inside[::4])))
            if len(inside) % 4 != 3 or any(sign not in ("=", "=~", "!=", "!~") for sign in inside[1::4]):
                raise ValueError(f"the braces of {token} are malformed: {text}")
        else:
            metrics.append((token, frozenset()))
    return Query(tuple(metrics), frozenset(grouping))


def _tokens(text: str) -> list[str]:
    tokens, at, depth = list[str](), 0, 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if not found or (found["range"] and not _RANGE.fullmatch(found["range"])):
            raise ValueError(f"what is {text[at : at + 20]!r}? {text}")
        at = found.end()
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(found[0], 0)
        if depth < 0:
            break
        if found[0].strip():
            tokens.append(found[0])
    if depth:
        raise ValueError(f"brackets do not match: {text}")
    return tokens


def _until(tokens: list[str], at: int, opening: str, closing: str) -> tuple[list[str], int]:
    """What stands between two brackets, and the place behind them."""
    if tokens[at] != opening:
        raise ValueError(f"{opening} is missing before {tokens[at]}")
    end = tokens.index(closing, at)
    return tokens[at + 1 : end], end + 1
