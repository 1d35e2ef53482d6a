"""Optional packages: what each brings, whether it is there, and what to say where it is not. Imports none by itself."""
import importlib
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from types import ModuleType

from vitrail.core.errors import MissingExtra


@dataclass(frozen=True, kw_only=True)
class Extra:
    """A group of packages that `pip install 'vitrail[name]'` installs. packages: module -> distribution."""

    name: str
    packages: dict[str, str]
    unlocks: str

    def missing(self) -> list[str]:
        """The distributions that are not installed."""
        return [dist for module, dist in self.packages.items() if find_spec(module) is None]

    def versions(self) -> dict[str, str]:
        """The installed distributions' versions."""
        return {dist: version(dist) for dist in self.packages.values() if version(dist)}


EXTRAS = (
    Extra(name="digits", packages={"sklearn": "scikit-learn"}, unlocks="the bundled data set 'digits' (make demo)"),
    Extra(name="evidence", packages={"skimage": "scikit-image", "sklearn": "scikit-learn"},
          unlocks="claims about learning, on textures cut from photographs"),
    Extra(name="onnx", packages={"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
          unlocks="vitrail export MODEL OUT.onnx"),
    Extra(name="fast", packages={"simplejpeg": "simplejpeg"},
          unlocks="plain JPEGs decoded in less time, to the same pixels"),
    Extra(name="datasets", packages={"datasets": "datasets"}, unlocks="data of the Hugging Face hub, hf:owner/name"),
    Extra(name="webdataset", packages={"webdataset": "webdataset"}, unlocks="shards of webdataset, wds:..."),
    Extra(name="bench", packages={"timm": "timm", "transformers": "transformers", "onnx": "onnx",
                                  "onnxscript": "onnxscript", "onnxruntime": "onnxruntime", "openvino": "openvino",
                                  "nncf": "nncf"},
          unlocks="vitrail bench --against timm transformers onnxruntime openvino"),
    Extra(name="test", packages={"timm": "timm", "transformers": "transformers", "pytest": "pytest"},
          unlocks="make test"),
)


def check(*modules: str) -> None:
    """Raises MissingExtra, as `need` does, for the first that is not installed; imports none."""
    for module in modules:
        if find_spec(module) is None:
            raise _missing(module)


def need(module: str) -> ModuleType:
    """An optional module, imported. Raises MissingExtra saying which extra brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        top = module.partition(".")[0]
        if e.name is None or e.name.partition(".")[0] != top:
            raise MissingExtra(f"{top} is installed, and needs the module {e.name!r}, which is not") from e
        raise _missing(top) from None
    except ImportError as e:
        raise MissingExtra(f"{module} is installed but does not import: {e}") from e


def _missing(module: str) -> MissingExtra:
    extra = next(x for x in EXTRAS if module in x.packages)
    return MissingExtra.of(extra.packages[module], extra.name)


def version(distribution: str) -> str:
    """The version of an installed distribution; empty where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
