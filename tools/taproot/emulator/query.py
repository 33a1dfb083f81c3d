"""The query language of IoT Hub, as far as fleets and configurations need it.

Responsible for: parsing `SELECT … FROM devices|devices.modules [WHERE …] [GROUP BY …]` and
running it over twin documents. Not for: pages and continuation tokens (`service.py`), jobs,
digital-twin models, joins. An error names what was not understood.
Language: learn.microsoft.com/azure/iot-hub/iot-hub-devguide-query-language.

    parse("SELECT deviceId FROM devices WHERE properties.reported.trust.version < 7").run(twins)
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

MAX_LENGTH = 8192
MAX_DEPTH = 32

UNDEFINED = type("Undefined", (), {"__repr__": lambda self: "UNDEFINED"})()

Document = dict[str, Any]
Expression = Callable[[Document], Any]


class QueryError(ValueError):
    """The query is not understood; the text says where."""


_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
  | (?P<string>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*")
  | (?P<name>[A-Za-z_$][\w$]*)
  | (?P<quoted>\[\[.*?\]\])
  | (?P<op><=|>=|<>|!=|[=<>+\-*/%(),.\[\]])
    )""",
    re.VERBOSE,
)
_KEYWORDS = {
    "select", "from", "where", "group", "by", "as", "and", "or", "not", "in", "nin", "top",
    "true", "false", "null", "undefined",
}  # fmt: skip
_AGGREGATES = {"count", "sum", "avg", "min", "max"}


def _tokens(text: str) -> list[tuple[str, str]]:
    if len(text) > MAX_LENGTH:
        raise QueryError(f"the query is longer than {MAX_LENGTH} characters")
    found: list[tuple[str, str]] = []
    position = 0
    text = text.strip().rstrip(";").rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise QueryError(f"not understood at position {position}: {text[position:][:20]!r}")
        kind = str(match.lastgroup)
        value = match[kind]
        if kind == "name" and value.lower() in _KEYWORDS:
            kind, value = "keyword", value.lower()
        elif kind == "quoted":
            kind, value = "name", value[2:-2]
        found.append((kind, value))
        position = match.end()
    return found


@dataclass
class Column:
    """One item of the SELECT list."""

    name: str
    value: Expression
    aggregate: str | None = None


@dataclass
class Query:
    """A parsed query."""

    collection: str
    columns: list[Column] = field(default_factory=list)  # empty: SELECT *
    where: Expression | None = None
    group: list[Column] = field(default_factory=list)
    top: int | None = None

    @property
    def kind(self) -> str:
        """The value of x-ms-item-type."""
        return "Raw" if self.columns else "Twin"

    def run(self, documents: Iterable[Document]) -> list[Document]:
        """Return the result rows, in the order of `documents`."""
        where = self.where
        rows = [doc for doc in documents if where is None or where(doc) is True]
        if self.group or any(column.aggregate for column in self.columns):
            result = self._grouped(rows)
        elif self.columns:
            result = [self._row(self.columns, doc) for doc in rows]
        else:
            result = rows
        return result if self.top is None else result[: self.top]

    @staticmethod
    def _row(columns: list[Column], doc: Document) -> Document:
        values = [(column.name, column.value(doc)) for column in columns]
        return {name: value for name, value in values if value is not UNDEFINED}

    def _grouped(self, rows: list[Document]) -> list[Document]:
        groups: dict[str, tuple[Document, list[Document]]] = {}
        for doc in rows:
            key = self._row(self.group, doc)
            groups.setdefault(repr(sorted(key.items())), (key, []))[1].append(doc)
        if not groups and not self.group:
            groups[""] = ({}, [])
        result = []
        for key, members in groups.values():
            row = dict(key) if self.group else {}
            for column in self.columns:
                if column.aggregate:
                    row[column.name] = _aggregate(column, members)
            named = {column.name for column in self.columns}
            result.append({name: value for name, value in row.items() if name in named})
        return result


def _aggregate(column: Column, members: list[Document]) -> Any:
    if column.aggregate == "count":
        return len(members)
    values = [v for v in (column.value(doc) for doc in members) if _is_number(v)]
    if not values:
        return None
    if column.aggregate == "avg":
        return sum(values) / len(values)
    if column.aggregate == "sum":
        return sum(values)
    return min(values) if column.aggregate == "min" else max(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _compare(operator: str, left: Any, right: Any) -> bool:
    if left is UNDEFINED or right is UNDEFINED:
        return False
    if operator in ("=", "!=", "<>"):
        same = left == right and isinstance(left, bool) == isinstance(right, bool)
        return same == (operator == "=")
    both = (left, right)
    if not (all(_is_number(v) for v in both) or all(isinstance(v, str) for v in both)):
        return False
    if operator == "<":
        return left < right
    if operator == ">":
        return left > right
    return left <= right if operator == "<=" else left >= right


def _arithmetic(operator: str, left: Any, right: Any) -> Any:
    if not (_is_number(left) and _is_number(right)):
        return UNDEFINED
    if operator in "/%" and right == 0:
        return UNDEFINED
    try:
        return {
            "+": lambda: left + right,
            "-": lambda: left - right,
            "*": lambda: left * right,
            "/": lambda: left / right,
            "%": lambda: math.fmod(left, right),
        }[operator]()
    except OverflowError:
        return UNDEFINED


def _text(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*values: Any) -> Any:
        if not all(isinstance(value, str) for value in values):
            return UNDEFINED
        return function(*values)

    return checked


_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "is_defined": (1, lambda v: v is not UNDEFINED),
    "is_null": (1, lambda v: v is None),
    "is_bool": (1, lambda v: isinstance(v, bool)),
    "is_number": (1, _is_number),
    "is_string": (1, lambda v: isinstance(v, str)),
    "is_object": (1, lambda v: isinstance(v, dict)),
    "is_array": (1, lambda v: isinstance(v, list)),
    "is_primitive": (1, lambda v: v is None or isinstance(v, (bool, int, float, str))),
    "startswith": (2, _text(str.startswith)),
    "endswith": (2, _text(str.endswith)),
    "contains": (2, _text(lambda text, part: part in text)),
    "lower": (1, _text(str.lower)),
    "upper": (1, _text(str.upper)),
    "length": (1, _text(len)),
    "concat": (2, _text(lambda left, right: left + right)),
    "index_of": (2, _text(str.find)),
    "as_number": (1, lambda v: _as_number(v)),
    "abs": (1, lambda v: abs(v) if _is_number(v) else UNDEFINED),
    "ceiling": (1, lambda v: math.ceil(v) if _is_number(v) else UNDEFINED),
    "floor": (1, lambda v: math.floor(v) if _is_number(v) else UNDEFINED),
}


def _as_number(value: Any) -> Any:
    if _is_number(value):
        return value
    try:
        return float(value) if isinstance(value, str) else UNDEFINED
    except ValueError:
        return UNDEFINED


def _path(names: list[str]) -> Expression:
    def get(doc: Document) -> Any:
        value: Any = doc
        for name in names:
            if not isinstance(value, dict) or name not in value:
                return UNDEFINED
            value = value[name]
        return value

    return get


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.at = 0
        self.depth = 0
        self.alias: str | None = None

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "end of query")

    def next(self) -> tuple[str, str]:
        token = self.peek()
        self.at += 1
        return token

    def take(self, kind: str, *values: str) -> str | None:
        """Consume and return the next token's value if it is one of `values`."""
        found_kind, found = self.peek()
        if found_kind == kind and (not values or found in values):
            self.at += 1
            return found
        return None

    def need(self, kind: str, *values: str) -> str:
        found = self.take(kind, *values)
        if found is None:
            wanted = " or ".join(values) or kind
            raise QueryError(f"expected {wanted}, found {self.peek()[1]!r}")
        return found

    def query(self) -> Query:
        self.need("keyword", "select")
        top = int(self.need("number")) if self.take("keyword", "top") else None
        start = self.at
        self._skip_columns()
        self.need("keyword", "from")
        query = Query(self._collection(), top=top)
        end = self.at
        self.at = start  # the alias of FROM may be used in the SELECT list
        query.columns = self._columns()
        self.at = end
        if self.take("keyword", "where"):
            query.where = self.expression()
        if self.take("keyword", "group"):
            self.need("keyword", "by")
            query.group = [self._column()]
            while self.take("op", ","):
                query.group.append(self._column())
        if self.peek()[0] != "end":
            raise QueryError(f"not understood: {self.peek()[1]!r}")
        return query

    def _skip_columns(self) -> None:
        while self.peek() not in (("keyword", "from"), ("end", "end of query")):
            self.at += 1

    def _collection(self) -> str:
        name = self.need("name").lower()
        if name == "devices" and self.take("op", "."):
            name += "." + self.need("name").lower()
        if name not in ("devices", "devices.modules"):
            raise QueryError(f"FROM takes devices or devices.modules, not {name!r}")
        if self.take("keyword", "as"):
            self.alias = self.need("name")
        elif self.peek()[0] == "name":
            self.alias = self.next()[1]
        return name

    def _columns(self) -> list[Column]:
        if self.take("op", "*"):
            self.need("keyword", "from")
            return []
        columns = [self._column()]
        while self.take("op", ","):
            columns.append(self._column())
        self.need("keyword", "from")
        return columns

    def _column(self) -> Column:
        start = self.at
        kind, value = self.peek()
        aggregate = None
        following = self.tokens[self.at + 1 : self.at + 2]
        if kind == "name" and value.lower() in _AGGREGATES and following == [("op", "(")]:
            aggregate = value.lower()
            self.at += 2
            if aggregate == "count":
                self.take("op", "*")
                expression = _path([])
            else:
                expression = self.expression()
            self.need("op", ")")
        else:
            expression = self.expression()
        words = [v for k, v in self.tokens[start : self.at] if k == "name"]
        name = words[-1] if words else f"${self.at}"
        if self.take("keyword", "as"):
            name = self.need("name")
        return Column(name, expression, aggregate)

    def expression(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise QueryError("the expression is nested too deeply")
        parts = [self._and()]
        while self.take("keyword", "or"):
            parts.append(self._and())
        self.depth -= 1
        if len(parts) == 1:
            return parts[0]
        return lambda doc: any(part(doc) is True for part in parts)

    def _and(self) -> Expression:
        parts = [self._not()]
        while self.take("keyword", "and"):
            parts.append(self._not())
        if len(parts) == 1:
            return parts[0]
        return lambda doc: all(part(doc) is True for part in parts)

    def _not(self) -> Expression:
        negate = False
        while self.take("keyword", "not"):
            negate = not negate
        inner = self._comparison()
        if not negate:
            return inner
        return lambda doc: inner(doc) is not True

    def _comparison(self) -> Expression:
        left = self._sum()
        operator = self.take("op", "=", "!=", "<>", "<", ">", "<=", ">=")
        if operator:
            right = self._sum()
            return lambda doc: _compare(str(operator), left(doc), right(doc))
        membership = self.take("keyword", "in", "nin")
        if membership:
            members = self._members()
            wanted = membership == "in"

            def member(doc: Document) -> bool:
                value = left(doc)
                if value is UNDEFINED:
                    return False
                return any(_compare("=", value, m(doc)) for m in members) == wanted

            return member
        return left

    def _members(self) -> list[Expression]:
        close = ")" if self.need("op", "[", "(") == "(" else "]"
        members = [self._sum()]
        while self.take("op", ","):
            members.append(self._sum())
        self.need("op", close)
        return members

    def _sum(self) -> Expression:
        left = self._product()
        while True:
            operator = self.take("op", "+", "-")
            if operator is None:
                return left
            left = _binary(operator, left, self._product())

    def _product(self) -> Expression:
        left = self._unary()
        while True:
            operator = self.take("op", "*", "/", "%")
            if operator is None:
                return left
            left = _binary(operator, left, self._unary())

    def _unary(self) -> Expression:
        if self.take("op", "-"):
            return _binary("-", lambda doc: 0, self._primary())
        return self._primary()

    def _primary(self) -> Expression:
        kind, value = self.next()
        if kind == "number":
            number = float(value) if any(c in value for c in ".eE") else int(value)
            return lambda doc: number
        if kind == "string":
            text = _unquote(value)
            return lambda doc: text
        if kind == "keyword" and value in ("true", "false", "null", "undefined"):
            constant = {"true": True, "false": False, "null": None}.get(value, UNDEFINED)
            return lambda doc: constant
        if kind == "op" and value == "(":
            inner = self.expression()
            self.need("op", ")")
            return inner
        if kind == "name":
            return self._name(value)
        raise QueryError(f"not understood: {value!r}")

    def _name(self, first: str) -> Expression:
        if self.take("op", "("):
            return self._call(first)
        names = [first]
        while True:
            if self.take("op", "."):
                kind, value = self.next()
                if kind not in ("name", "keyword"):
                    raise QueryError(f"expected a member name, found {value!r}")
                names.append(value)
            elif self.peek() == ("op", "["):
                self.at += 1
                names.append(_unquote(self.need("string")))
                self.need("op", "]")
            else:
                break
        if self.alias is not None and names[0] == self.alias and len(names) > 1:
            names = names[1:]
        return _path(names)

    def _call(self, name: str) -> Expression:
        known = _FUNCTIONS.get(name.lower())
        if known is None:
            raise QueryError(f"no such function: {name}")
        arguments = []
        if not self.take("op", ")"):
            arguments.append(self._sum())
            while self.take("op", ","):
                arguments.append(self._sum())
            self.need("op", ")")
        count, function = known
        if len(arguments) != count:
            raise QueryError(f"{name} takes {count} arguments, not {len(arguments)}")
        return lambda doc: function(*[argument(doc) for argument in arguments])


def _binary(operator: str, left: Expression, right: Expression) -> Expression:
    return lambda doc: _arithmetic(operator, left(doc), right(doc))


def _unquote(text: str) -> str:
    body = text[1:-1]
    if text[0] == "'":
        body = body.replace("''", "'")
    return re.sub(r"\\(.)", r"\1", body)


def parse(text: object) -> Query:
    """Parse a query; raise QueryError saying what was not understood."""
    if not isinstance(text, str) or not text.strip():
        raise QueryError("the query is empty")
    return _Parser(text).query()


def condition(text: str) -> Expression:
    """Parse the target condition of a configuration; `*` matches every device."""
    if text.strip() == "*":
        return lambda doc: True
    parser = _Parser(text)
    expression = parser.expression()
    if parser.peek()[0] != "end":
        raise QueryError(f"not understood: {parser.peek()[1]!r}")
    return expression
