"""User code that registers tasks, models and mixers: a Python file or a module, imported when it is named."""
import importlib
import importlib.util
import os
import sys
import zlib
from pathlib import Path
from types import ModuleType

from vitrail.core.errors import VitrailError, did_you_mean


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
        raise VitrailError(f"there is no file {name!r} to import as a plugin.{did_you_mean(path.name, names, least=0.7)}")
    path = path.resolve()
    # a name of its own, so that a plugin called random.py takes nobody's place
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


def _failed(name: str, error: Exception) -> VitrailError:
    return VitrailError(f"{name}: this plugin failed while it was imported: {type(error).__name__}: {error}. "
                        "--debug shows where")
