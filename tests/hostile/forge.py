"""Builds checkpoints that no honest program would write, byte by byte, and watches what reading them does."""
import contextlib
import io
import json
import struct
import sys
import zipfile
from pathlib import Path

ROOM = 120 << 20        # bytes of memory that reading a small file may take
MAGIC = 0x1950A86A20F9469CFC6C
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class",
           "socket.connect", "socket.getaddrinfo", "exec", "ctypes.dlopen", "shutil.unpack_archive", "os.remove")


def text(s):
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def number(n):
    if 0 <= n < 256:
        return b"K" + bytes([n])
    data = n.to_bytes((n.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def call(function, *args):
    return function + tuple_of(*args) + b"R"


def storage(kind="FloatStorage", key="0", numel=4, *rest, module="torch", word="storage"):
    size = number(numel) if isinstance(numel, int) else numel
    return tuple_of(text(word), named(module, kind), text(key), text("cpu"), size, *rest) + b"Q"


def tensor(size=(4,), stride=(1,), offset=0, *, held=None, version="_v2"):
    function = named("torch._utils", "_rebuild_tensor" + version)
    return call(function, held or storage(), number(offset), tuple_of(*map(number, size)),
                tuple_of(*map(number, stride)), b"\x89", call(named("collections", "OrderedDict")))


def table(**values):
    return b"}(" + b"".join(text(k) + v for k, v in values.items()) + b"u"


def pickled(body):
    return b"\x80\x02" + body + b"."


def zipped(pickle, *, data=None, root="archive", method=zipfile.ZIP_STORED, extra=None):
    """The archive form: the pickle as it is, and the storages."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, content in {f"{root}/data.pkl": pickle, f"{root}/byteorder": b"little",
                              **{f"{root}/data/{k}": v for k, v in (data or {"0": bytes(16)}).items()},
                              **(extra or {})}.items():
            z.writestr(name, content)
    return out.getvalue()


def legacy(pickle, *, data=None, keys=None):
    """The older form: five pickles and the storages, each after its length in elements of 4 bytes."""
    data = {"0": bytes(16)} if data is None else data
    head = pickled(number(MAGIC)) + pickled(number(1001)) + pickled(table(little_endian=b"\x88"))
    listed = pickled(b"](" + b"".join(text(k) for k in (data if keys is None else keys)) + b"e")
    return head + pickle + listed + b"".join(struct.pack("<q", len(v) // 4) + v for v in data.values())


def safetensors(header, data=b"", *, length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(start=0, end=16, dtype="F32", shape=(4,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


def npy(header, data=b"", *, version=1, length=None):
    raw = header.encode("latin-1")
    size = struct.pack("<H" if version == 1 else "<I", len(raw) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw + data


def array(descr="'<f4'", order="False", shape="(4,)", data=bytes(16)):
    return npy(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", data)


def npz(members, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for name, content in members.items():
            z.writestr(name, content)
    return out.getvalue()


def patch(data, what, by):
    """Every occurrence of some bytes replaced, which must be there."""
    assert what in data
    return data.replace(what, by)


class Watch:
    """Notes every call of a dangerous kind, and every file opened for writing, while it is entered."""

    def __init__(self):
        self.seen, self.on = [], False
        sys.addaudithook(self._hook)        # a hook cannot be taken out again, so it is switched

    def _hook(self, event, args):
        if not self.on:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if event == "exec" and not getattr(args[0], "co_filename", "<").startswith(("<string", "<stdin")):
            return                          # a module being imported
        if writes or event.startswith(WATCHED):
            self.seen.append((event, str(args)[:200]))

    def __enter__(self):
        self.seen, self.on = [], True
        return self

    def __exit__(self, *_):
        self.on = False


WATCH = Watch()


class Peak:
    """How many bytes the process grew at most while it was entered; 0 where the system does not tell."""

    grown = 0

    def __enter__(self):
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._start = self._kb("VmRSS")
        return self

    def __exit__(self, *_):
        self.grown = max(0, self._kb("VmHWM") - self._start) * 1024

    @staticmethod
    def _kb(field):
        with contextlib.suppress(OSError), open("/proc/self/status") as f:
            return int(next((line.split()[1] for line in f if line.startswith(field)), "0"))
        return 0


def attack():
    """A call that leaves the file `ran` in the working folder if it is ever made."""
    return call(named("os", "system"), text("touch ran"))
