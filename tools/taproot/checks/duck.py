"""mypy plugin for device code: an annotation `object` means "duck-typed", so it is not checked.

Objects that cross the device package's boundaries are duck-typed (contracts.md §5), and MicroPython
has no `typing` to say so. Everything else keeps its checks.
"""

from __future__ import annotations

from collections.abc import Callable

from mypy.plugin import AnalyzeTypeContext, Plugin
from mypy.types import AnyType, Type, TypeOfAny


class Duck(Plugin):
    """Reads `object` as Any in annotations."""

    def get_type_analyze_hook(self, fullname: str) -> Callable[[AnalyzeTypeContext], Type] | None:
        return _any if fullname == "builtins.object" else None


def _any(_: AnalyzeTypeContext) -> Type:
    return AnyType(TypeOfAny.explicit)


def plugin(_version: str) -> type[Plugin]:
    """mypy's entry point."""
    return Duck
