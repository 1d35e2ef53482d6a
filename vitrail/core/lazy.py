"""Names of functions and classes, imported when they are first used: a declaration costs no import."""
import importlib
import inspect
from typing import Any


class Lazy:
    """`Lazy("package.module:name")`, which is called, and whose attributes are read, as if it were that name itself.

    >>> Lazy("math:sqrt")(9.0)
    3.0
    """

    def __init__(self, reference: str):
        self._module, _, self._name = reference.partition(":")

    @property
    def target(self) -> Any:
        """What the name stands for. Raises ImportError where its module holds nothing of that name."""
        module = importlib.import_module(self._module)
        if not hasattr(module, self._name):             # an AttributeError would ask __getattr__, and so this, again
            raise ImportError(f"{self._module} holds nothing called {self._name!r}")
        return getattr(module, self._name)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self.target)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.target(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.target, name)

    def __repr__(self) -> str:
        return f"Lazy({self._module}:{self._name})"
