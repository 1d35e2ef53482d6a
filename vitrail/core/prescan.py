"""What a pickle inside a checkpoint says, worked out without running any of it.

A pickle is a small program that may call any function of Python. This reads the program as text: a global stays a
name, a call of one of torch's rebuild functions becomes a `View` (which storage, which offset, sizes and strides),
and everything else is refused by name. Nothing is imported, called or unpickled, so there is nothing to escape
from; and what was checked is what is read, because no second reader of the file follows.

Memory is bounded by the number of instructions, never by a size that the file claims.
"""
import io
import pickletools
from math import prod
from typing import Any

from vitrail.core.views import ITEMSIZE, STORAGES, Named, Refused, Storage, Thing, View

MOST_BYTES = 32 << 20           # of one pickle, which holds names and sizes only
MOST_STEPS = 1_000_000          # about 40 a tensor

# Objects that training scripts leave beside the weights. They are passed over, never built.
_PASSED_OVER = frozenset((
    "argparse.Namespace", "collections.Counter", "collections.defaultdict", "torch.Size", "torch.device",
    "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "_codecs.encode",
    *(f"{m}.{n}" for m in ("builtins", "__builtin__") for n in ("set", "frozenset", "list", "dict", "int", "float"))))
_ORDERED_DICT = "collections.OrderedDict"
_TENSORS = frozenset(f"torch._utils._rebuild_tensor{v}" for v in ("", "_v2", "_v3"))
_PARAMETERS = frozenset(("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"))
_WRAPPED = "torch._tensor._rebuild_from_type_v2"            # a tensor that somebody hung an attribute on
_PLAIN = frozenset(("torch.Tensor", "torch.nn.parameter.Parameter"))
_NAMES = _PASSED_OVER | _TENSORS | _PARAMETERS | _PLAIN | {_ORDERED_DICT, _WRAPPED}
_VALUES = frozenset((
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"))


class Scan:
    """One file's pickles; `storages` collects what they refer to, by key."""

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}
        self._steps = 0

    def read(self, data: io.BytesIO) -> Any:
        """The object that the pickle at the present position describes. Raises Refused."""
        stack: list[Any] = []
        marks: list[list[Any]] = []
        memo: dict[int, Any] = {}
        try:
            op: Any
            arg: Any
            for op, arg, _ in pickletools.genops(data):
                self._steps += 1
                if self._steps > MOST_STEPS:
                    raise Refused("its table of contents is longer than that of any file of weights. Do not use it.")
                name: str = op.name
                if name == "STOP":
                    return stack.pop()
                if name == "MARK":
                    marks.append(stack)
                    stack = []
                elif name in _POPS_MARK:
                    items, stack = stack, marks.pop()
                    _POPS_MARK[name](stack, items)
                elif name in _VALUES:
                    stack.append(arg)
                elif name in _SIMPLE:
                    _SIMPLE[name](stack)
                elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
                    memo[len(memo) if name == "MEMOIZE" else arg] = stack[-1]
                elif name in ("BINGET", "LONG_BINGET"):
                    stack.append(memo[arg])
                elif name == "GLOBAL":
                    stack.append(_name(arg.replace(" ", ".", 1)))
                elif name == "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                elif name not in ("PROTO", "FRAME"):
                    raise Refused(f"its pickle uses the instruction {name}, which torch.save never writes. "
                                  "It is damaged or not a file of weights.")
        except Refused:
            raise
        except Exception as e:      # any bytes may come here, and each way to be malformed has its own exception
            raise Refused(f"its table of contents is damaged ({type(e).__name__}). Get the file again.") from e
        raise Refused("its table of contents has no end. Get the file again.")

    def _storage(self, pid: Any) -> Storage:
        """The storage that a persistent id names: ("storage", type, key, device, numel[, None])."""
        kind, of, key, _, numel, *view = pid
        of = of.name.rpartition(".")[2] if isinstance(of, Named) else ""
        if kind != "storage" or of not in STORAGES or any(v is not None for v in view):
            raise Refused("it refers to data of a kind that vitrail does not read. "
                          "Load it with the program that made it, and save its state dict as safetensors.")
        if type(key) not in (str, int) or not _whole(numel):
            raise ValueError("storage")
        found = Storage(str(key), STORAGES[of], numel)
        if self.storages.setdefault(found.key, found) != found:
            raise ValueError("one key, two storages")
        return found


def _whole(n: Any) -> bool:
    return type(n) is int and 0 <= n < 1 << 62


def _name(name: str) -> Named:
    module, _, last = name.rpartition(".")
    if name in _NAMES or (module == "torch" and last in ITEMSIZE | STORAGES) or name == "torch.storage.UntypedStorage":
        return Named(name)
    raise Refused(f"it asks Python for {name[:80]!r}, which weights have no need of; nothing was run. If you trust "
                  "its maker, load it with the program that made it, and save only the state dict as safetensors.")


def _stack_global(stack: list[Any]) -> None:
    last, module = stack.pop(), stack.pop()
    stack.append(_name(f"{module}.{last}"))


def _tensor(version: str, args: tuple[Any, ...]) -> View:
    storage, offset, size, stride = args[:4]
    dtype = args[6].name.removeprefix("torch.") if version.endswith("_v3") else storage.dtype
    if not (isinstance(storage, Storage) and type(size) is type(stride) is tuple and len(size) == len(stride) <= 64
            and all(map(_whole, (offset, *size, *stride))) and dtype in ITEMSIZE):
        raise ValueError("tensor")
    view = View(storage, dtype, offset, size, stride)
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1 if prod(size) else offset
    if last * ITEMSIZE[dtype] > storage.nbytes or view.nbytes > storage.nbytes:
        raise Refused(f"it holds a tensor of {view.nbytes} bytes in a storage of {storage.nbytes}. "
                      "It is damaged, or made to exhaust memory: do not use it.")
    return view


def _call(stack: list[Any]) -> None:
    args, function = stack.pop(), stack.pop()
    if type(args) is not tuple:
        raise ValueError("arguments")
    stack.append(_result(function, args))


def _result(function: Any, args: tuple[Any, ...]) -> Any:
    name = function.name if isinstance(function, Named) else ""
    if name in _PASSED_OVER:
        return Thing(name)
    if name == _ORDERED_DICT:
        made: dict[Any, Any] = {}
        _set_items([made], [x for k, v in (args[0] if args else ()) for x in (k, v)])
        return made
    if name in _TENSORS:
        return _tensor(name, args)
    if name in _PARAMETERS and isinstance(args[0], View):
        return args[0]
    if name == _WRAPPED and isinstance(args[0], Named) and args[0].name in _TENSORS and args[1].name in _PLAIN:
        return _tensor(args[0].name, args[2])
    raise ValueError("call")


def _build(stack: list[Any]) -> None:
    """An object's attributes: those of a dict (`_metadata`) and of what is passed over matter to nobody here."""
    stack.pop()
    if not isinstance(stack[-1], (dict, Thing)):
        raise TypeError("build")


def _set_items(stack: list[Any], items: list[Any]) -> None:
    if isinstance(stack[-1], Thing):
        return
    if not isinstance(stack[-1], dict) or len(items) % 2:
        raise ValueError("dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in (str, int, float, bool):        # a tuple's hash can cost time without end
            raise ValueError("key")
        stack[-1][key] = value


def _append(stack: list[Any], items: list[Any]) -> None:
    if isinstance(stack[-1], list):
        stack[-1].extend(items)
    elif not isinstance(stack[-1], Thing):
        raise TypeError("list")


def _tuple(count: int) -> Any:
    def make(stack: list[Any]) -> None:
        if len(stack) < count:
            raise ValueError("tuple")
        stack[-count:] = [tuple(stack[-count:])]
    return make


def _one(act: Any, count: int) -> Any:
    def run(stack: list[Any]) -> None:
        items = stack[-count:]
        del stack[-count:]
        act(stack, items)
    return run


_POPS_MARK = {"TUPLE": lambda stack, items: stack.append(tuple(items)), "SETITEMS": _set_items, "APPENDS": _append,
              "ADDITEMS": _append}
_SIMPLE = {"NONE": lambda s: s.append(None), "NEWTRUE": lambda s: s.append(True), "NEWFALSE": lambda s: s.append(False),
           "EMPTY_DICT": lambda s: s.append({}), "EMPTY_LIST": lambda s: s.append([]),
           "EMPTY_TUPLE": lambda s: s.append(()), "EMPTY_SET": lambda s: s.append(Thing("builtins.set")),
           "TUPLE1": _tuple(1), "TUPLE2": _tuple(2), "TUPLE3": _tuple(3), "SETITEM": _one(_set_items, 2),
           "APPEND": _one(_append, 1), "REDUCE": _call, "NEWOBJ": _call, "BUILD": _build,
           "STACK_GLOBAL": _stack_global}
