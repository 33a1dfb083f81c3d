"""Modules that one job needs: loaded inside a block, forgotten at its end.

A frozen module costs its code nothing in RAM, but every function and class it defines is an
object on the heap. Code that runs seldom (an install, a plan, a verdict) is therefore imported
inside a `with Transient():` block and given back with it.

Responsible for: forgetting what a block imported. Not for: deciding what is seldom.

    with Transient():
        from .update import install        # and whatever that imports in turn
        install(source)

The block must not await: another task's imports would be forgotten with it. Nothing that leaves
the block may be an instance of a class that a forgotten module defines.
"""

import sys

_PACKAGE = "azure_iot."


class Transient:
    """Forget, on leaving, each module of this package that was not loaded on entering."""

    def __enter__(self) -> None:
        self._kept = set(sys.modules)

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for name in list(sys.modules):
            if name not in self._kept and name.startswith(_PACKAGE):
                forget(name)


def forget(*names: str) -> None:
    """Let go of these modules where they are loaded; the next import runs them again."""
    for name in names:
        if sys.modules.pop(name, None) is not None:
            parent, _, last = name.rpartition(".")
            package = sys.modules.get(parent)
            # Not there if memory ran out in the import, or the package itself went first.
            if hasattr(package, last):
                delattr(package, last)
