"""User code that registers tasks, models and mixers: a Python file or a module, imported when it is named."""
import importlib
import importlib.util
import os
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from vitrail.core.errors import VitrailError, did_you_mean

# the name of a plugin's module: one of its own, so that a plugin called random.py takes nobody's place
_PLUGIN = re.compile(r"vitrail_plugin_(.+)_[0-9a-f]{8}")


def load(name: str) -> ModuleType:
    """The module that a file (`extras/my_task.py`) or a dotted name (`my_package.task`) holds, imported once.

    What it registers, it registers at its import. Raises VitrailError naming the file where it is not there or fails.

        load("my_task.py")
    """
    if name.endswith(".py") or os.sep in name:
        return _load_file(name)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name and (name == e.name or name.startswith(f"{e.name}.")):
            raise VitrailError(f"there is no module {name!r} to import as a plugin: for a file give its path, such as "
                               f"./{name}.py") from e
        raise _failed(name, e) from e
    except Exception as e:              # the user's own code, which may raise anything
        raise _failed(name, e) from e


def _load_file(name: str) -> ModuleType:
    path = Path(name).expanduser()
    if not path.is_file():
        folder = path.parent
        names = sorted(os.listdir(folder))[:10_000] if folder.is_dir() else []
        raise VitrailError(f"there is no file {name!r} to import as a "
                           f"plugin.{did_you_mean(path.name, names, least=0.7)}")
    path = path.resolve()
    module_name = f"vitrail_plugin_{path.stem}_{zlib.crc32(os.fsencode(path)):08x}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise VitrailError(f"{name}: a plugin is a Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as e:
        del sys.modules[module_name]
        raise _failed(name, e) from e
    return module


def find(reference: str) -> Any:
    """What `FILE.py:NAME` or `package.module:NAME` stands for; its module is imported once.

    Raises VitrailError where the module cannot be imported, or holds nothing of that name.
    """
    module_name, _, name = reference.rpartition(":")
    module = load(module_name)
    if not hasattr(module, name):
        names = [known for known in vars(module) if not known.startswith("_")]
        raise VitrailError(f"{module_name} holds nothing called {name!r}.{did_you_mean(name, names)}")
    return getattr(module, name)


def reference_to(thing: Any) -> str:
    """What a saved file calls a class of the user's own: `module.Name`; of a plugin's file the module is the file's
    name, wherever it lies."""
    module = str(thing.__module__)
    plugin = _PLUGIN.fullmatch(module)
    return f"{plugin[1] if plugin else module}.{thing.__qualname__}"


def imported(reference: str) -> Any:
    """What `reference_to` named, where its module is imported already; else None. Nothing is imported here: a saved
    file does not choose what code runs."""
    module_name, _, name = reference.rpartition(".")
    modules = [sys.modules.get(module_name)]
    modules += [module for known, module in list(sys.modules.items())
                if (plugin := _PLUGIN.fullmatch(known)) and plugin[1] == module_name]
    return next((getattr(module, name) for module in modules if module is not None and hasattr(module, name)), None)


def _failed(name: str, error: Exception) -> VitrailError:
    return VitrailError(f"{name}: this plugin failed while it was imported: {type(error).__name__}: {error}. "
                        "--debug shows where")
