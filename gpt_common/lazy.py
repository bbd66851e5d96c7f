"""Public names that a package imports at first use: to import the package takes no time."""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package whose public names are imported at first use."""

    modules_by_name: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        """Import a public name. Raises `AttributeError` for any other."""
        module = self.modules_by_name.get(name)
        if module is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(module), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, but no module in place of the public name that it defines.

        When Python imports `package.generate`, it makes that module an attribute of the package,
        where users expect the function `generate`.
        """
        if isinstance(value, ModuleType) and self.modules_by_name.get(name) == value.__name__:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.modules_by_name})


def import_lazily(package: str, names: Mapping[str, Sequence[str]]) -> None:
    """Give a package that is being imported its public `names`, by the module that has them."""
    module = sys.modules[package]
    vars(module)["modules_by_name"] = {n: where for where, found in names.items() for n in found}
    module.__class__ = LazyPackage
