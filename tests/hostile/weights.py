"""The corpus of hostile files of weights, by what is wrong with each; made by the forge, byte by byte."""
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tests.hostile import forge as f

S, E, N = f.safetensors, f.entry, f.npz
GOOD = f.pickled(f.table(a=f.tensor()))
RUN = f.attack()
PICKLES = {
    "system": RUN, "system beside tensors": f.table(a=f.tensor(), b=RUN),
    "system in an entry": f.table(model=f.table(a=f.tensor()), args=RUN),
    "system by the stack": f.text("os") + f.text("system") + b"\x93" + f.tuple_of(f.text("true")) + b"R",
    "system by posix": f.call(f.named("posix", "system"), f.text("true")),
    "system by a path of names": f.call(f.named("torch", "os.system"), f.text("true")),
    "system by numpy": f.call(f.named("numpy.testing._private.utils", "runstring"), f.text("1"), b"}"),
    "system by INST": b"(" + f.text("true") + b"ios\nsystem\n",
    "system by OBJ": b"(" + f.named("os", "system") + f.text("true") + b"o",
    "system by NEWOBJ_EX": f.named("os", "system") + b")}\x92",
    "system as attribute of a dict": f.table(a=f.tensor()) + f.table(x=RUN) + b"b",
    "system as key": b"}(" + RUN + f.tensor() + b"u",
    "system in a storage": f.tensor(held=f.tuple_of(f.text("storage"), f.named("os", "system")) + b"Q"),
    "system as wrapped function": f.call(
        f.named("torch._tensor", "_rebuild_from_type_v2"), f.named("os", "system"), f.named("torch", "Tensor"),
        f.tuple_of(f.text("true")), b"N"),
    "eval": f.call(f.named("builtins", "eval"), f.text("1")),
    "exec of Python 2": f.call(f.named("__builtin__", "execfile"), f.text("x")),
    "getattr": f.call(f.named("builtins", "getattr"), f.named("collections", "OrderedDict"), f.text("x")),
    "import": f.call(f.named("builtins", "__import__"), f.text("os")),
    "load in load": f.call(f.named("torch", "load"), f.text("x")),
    "hub": f.call(f.named("torch.hub", "load"), f.text("x")),
    "compiled library": f.call(f.named("torch.ops", "load_library"), f.text("x")),
    "popen": f.call(f.named("subprocess", "Popen"), f.text("true")),
    "socket": f.call(f.named("socket", "create_connection"), f.tuple_of(f.text("127.0.0.1"), f.number(9))),
    "remove": f.call(f.named("os", "remove"), f.text("x")),
    "web page": f.call(f.named("webbrowser", "open"), f.text("http://127.0.0.1:9")), "extension": b"\x82\x01",
    "persistent by name": b"Pstorage\n", "buffer": b"\x97", "bad opcode": b"\xff",
    "name with a line": f.text("os\nsystem") + f.text("x") + b"\x93", "name that is a number": b"K\x01K\x02\x93",
    "bytearray of 2 GB": f.call(f.named("builtins", "bytearray"), f.number(2 << 30)),
    "list by multiplication": f.call(f.named("operator", "mul"), b"]", f.number(1 << 40)),
    "text longer than the file": b"X\xff\xff\xff\x7fab", "text of 8 bytes length": b"\x8d" + b"\xff" * 8,
    "number of negative length": b"\x8b\xff\xff\xff\xff", "number of 200 digits": f.table(a=f.number(1 << 700)),
    "empty stack": b"0", "no mark": b"t", "memo not there": b"h\x07", "reduce of nothing": b"R",
    "dict of odd length": b"}(K\x01u", "build on a tensor": f.table(a=f.tensor() + b"}b"),
    "append to a dict": b"}K\x01a", "keys of a tuple": b"})K\x01s",
    "key of a thousand pairs": b"}" + b")" + b"\x85" + b"q\x00h\x00\x86" * 1000 + f.tensor() + b"s",
    "holds itself": b"}q\x00" + f.text("a") + b"h\x00s", "list that holds itself": b"]q\x00h\x00a",
    "nested 100,000 deep": b")" + b"\x85" * 100_000,
    "dicts 50,000 deep": b"}" + (f.text("a") + b"}") * 50_000 + b"s" * 50_000,
    "a million empty dicts": b"(" + b"}" * 999_990 + b"l",
    "tensor of 10^12 numbers": f.table(a=f.tensor((10**12,), (0,))),
    "tensor of 2^62": f.table(a=f.tensor((1 << 61, 2), (0, 0))),
    "sizes that overflow": f.table(a=f.tensor((1 << 40, 1 << 40), (0, 0))),
    "empty, but wide": f.table(a=f.tensor((0, 1 << 61), (1, 1))), "beyond its storage": f.table(a=f.tensor((5,))),
    "offset beyond": f.table(a=f.tensor((4,), (1,), 1)), "stride beyond": f.table(a=f.tensor((2,), (4,))),
    "negative size": f.table(a=f.tensor((-4,))), "negative stride": f.table(a=f.tensor((4,), (-1,), 3)),
    "negative offset": f.table(a=f.tensor((4,), (1,), -1)),
    "strides for other sizes": f.table(a=f.tensor((4,), (1, 1))),
    "100 dimensions": f.table(a=f.tensor((1,) * 100, (1,) * 100)),
    "sizes that are text": f.table(a=f.call(
        f.named("torch._utils", "_rebuild_tensor"), f.storage(), f.number(0), f.tuple_of(f.text("4")),
        f.tuple_of(f.number(1)))),
    "sparse": f.call(f.named("torch._utils", "_rebuild_sparse_tensor"), b"N", b"N"),
    "rebuilt from too little": f.call(f.named("torch._utils", "_rebuild_tensor_v2"), f.storage()),
    "parameter of text": f.call(f.named("torch._utils", "_rebuild_parameter"), f.text("a"), b"\x89", b"N"),
    "type that is none": f.table(a=f.tensor(version="_v3")),
    "storage of 2^61": f.table(a=f.tensor(held=f.storage(numel=1 << 61))),
    "storage of -4": f.table(a=f.tensor(held=f.storage(numel=-4))),
    "storage of 4.0": f.table(a=f.tensor(held=f.storage(numel=b"G" + struct.pack(">d", 4)))),
    "storage not there": f.table(a=f.tensor(held=f.storage(key="../../etc/passwd"))),
    "storage of no kind": f.table(a=f.tensor(held=f.storage("QUInt8Storage"))),
    "storage of another module": f.table(a=f.tensor(held=f.storage(module="os"))),
    "storage that is a view": f.table(a=f.tensor(held=f.storage("FloatStorage", "0", 4, f.tuple_of(f.text("v"))))),
    "storage by another word": f.table(a=f.tensor(held=f.storage(word="module"))),
    "one key, two storages": f.table(a=f.tensor(), b=f.tensor((2,), held=f.storage(numel=2))),
    "nothing but a storage": f.storage(), "a storage as entry": f.table(a=f.storage()), "none": b"N", "nothing": b"",
}
FINE = {"empty, but wide"}      # a lawful tensor of no elements, as safetensors also allows


def shared(count):
    """Many tensors over one storage of 1 MB: little to read, but more than any memory to copy."""
    held = f.storage(numel=1 << 18)
    return f.zipped(f.pickled(f.table(**{f"t{i}": f.tensor((1 << 18,), held=held) for i in range(count)})),
                    data={"0": bytes(1 << 20)})


def overlapping():
    """An archive whose members lie over one another: each is honest, the sum is not."""
    data = f.zipped(GOOD, data={"0": bytes(16), **{str(i): bytes(5000) for i in range(1, 40)}})
    where = data.index(b"PK\1\2")
    entries, at = [], where
    while data[at:at + 4] == b"PK\1\2":
        size = 46 + struct.unpack_from("<H", data, at + 28)[0]
        entries.append(data[at:at + size])
        at += size
    last = entries[-1]
    many = b"".join(entries) + b"".join(last.replace(b"data/39", f"data/{i}".encode()) for i in range(50, 99))
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(entries) + 49, len(entries) + 49, len(many), where, 0)
    return data[:where] + many + end


def two_of_one_name():
    with pytest.warns(UserWarning, match="Duplicate name"):
        out = io.BytesIO(f.zipped(GOOD))
        with zipfile.ZipFile(out, "a") as z:
            z.writestr("archive/data.pkl", f.pickled(RUN))
    return out.getvalue()


def long_directory():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for i in range(140):
            z.writestr("a" * 65000 + str(i), b"")
    return out.getvalue()


ZIPS = {
    "compressed": lambda: f.zipped(GOOD, method=zipfile.ZIP_DEFLATED),
    "bomb": lambda: f.zipped(GOOD, data={"0": bytes(64 << 20)}, method=zipfile.ZIP_DEFLATED),
    "encrypted": lambda: f.patch(f.zipped(GOOD), b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"),
    "unknown compression": lambda: f.patch(
        f.zipped(GOOD), b"PK\1\2\x14\x03\x14\0\0\0\0\0", b"PK\1\2\x14\x03\x14\0\0\0\x63\0"),
    "overlapping": overlapping, "shared too often": lambda: shared(80), "two of one name": two_of_one_name,
    "long directory": long_directory, "two tables": lambda: f.zipped(GOOD, extra={"other/data.pkl": GOOD}),
    "no table": lambda: f.npz({"a": b"b"}), "empty archive": lambda: f.npz({}),
    "program": lambda: f.zipped(GOOD, extra={"archive/constants.pkl": b"", "archive/code/x.py": b""}),
    "big-endian": lambda: f.zipped(GOOD, extra={"archive/byteorder": b"big"}),
    "table too deep": lambda: f.zipped(GOOD, root="../../x"),
    "storage too short": lambda: f.zipped(GOOD, data={"0": bytes(12)}),
    "storage too long": lambda: f.zipped(GOOD, data={"0": bytes(20)}),
    "storage missing": lambda: f.zipped(GOOD, data={"1": bytes(16)}),
    "wrong checksum": lambda: f.patch(f.zipped(GOOD, data={"0": b"ABCD" * 4}), b"ABCDABCD", b"ABCDABCE"),
    "table of 33 MB": lambda: f.zipped(f.pickled(f.table(a=f.text("x" * (33 << 20))))),
    "cut in the middle": lambda: f.zipped(GOOD)[:200], "end only": lambda: b"PK\3\4" + f.zipped(GOOD)[-22:],
    "offsets beyond the end": lambda: f.zipped(GOOD)[:-6] + b"\xff\xff\xff\x7f\0\0",
    "counts that lie": lambda: f.zipped(GOOD)[:-12] + b"\xff" * 10 + b"\0\0",
    "zip64 record cut short": lambda: (
        f.zipped(GOOD)[:-22] + b"PK\6\6" + f.zipped(GOOD)[-22:-10] + b"\xff" * 8 + b"\0\0"),
    "zip64 without its record": lambda: f.zipped(GOOD)[:-14] + b"\xff" * 12 + b"\0\0",
    "a second archive behind": lambda: f.zipped(GOOD) + f.zipped(f.pickled(RUN)),
    "legacy: cut short": lambda: f.legacy(GOOD)[:-3], "legacy: more behind": lambda: f.legacy(GOOD) + b"x",
    "legacy: no keys": lambda: f.legacy(GOOD, keys=[]), "legacy: other keys": lambda: f.legacy(GOOD, keys=["0", "1"]),
    "legacy: key twice": lambda: f.legacy(GOOD, keys=["0", "0"]),
    "legacy: another length": lambda: f.legacy(GOOD)[:-24] + struct.pack("<q", 1 << 40) + bytes(16),
    "legacy: not the magic": lambda: f.patch(f.legacy(GOOD), f.number(f.MAGIC), f.number(f.MAGIC + 1)),
    "legacy: magic only": lambda: f.pickled(f.number(f.MAGIC)),
    "legacy: no mark of the machine": lambda: f.patch(f.legacy(GOOD), b"\x88", b"\x89"),
    "a plain pickle": lambda: pickle.dumps({"a": np.ones(3)}), "a pickle of text": lambda: pickle.dumps({"a": "b"}, 0),
}
SAFE = {
    "length 2^63": S({"a": E()}, bytes(16), length=1 << 63), "length beyond": S({"a": E()}, bytes(16), length=5000),
    "length 0": S(b"", bytes(16)), "length 1": S(b"{", bytes(16)), "no length": b"{}",
    "not JSON": S(b"{'a': 1}", bytes(16)), "a list": S([1, 2]), "a number": S(b"12345678"), "null": S(b"null"),
    "deep": S(b"[" * 100_000 + b"]" * 100_000), "not UTF-8": S(b'{"\xff": {}}'),
    "digits": S(b'{"a": ' + b"9" * 10_000 + b"}"), "entry is a list": S({"a": [1]}),
    "overlap": S({"a": E(), "b": E(8, 24)}, bytes(24)), "hole": S({"a": E(), "b": E(20, 36)}, bytes(36)),
    "begins late": S({"a": E(4, 20)}, bytes(20)), "backwards": S({"a": E(16, 0)}, bytes(16)),
    "negative": S({"a": E(-16, 0)}), "trailing": S({"a": E()}, bytes(17)), "cut short": S({"a": E()}, bytes(15)),
    "unknown type": S({"a": E(dtype="F33")}, bytes(16)), "shape too large": S({"a": E(shape=(5,))}, bytes(16)),
    "shape overflows": S({"a": E(shape=(1 << 62, 1 << 62))}, bytes(16)),
    "shape of text": S({"a": {**E(), "shape": "4"}}, bytes(16)), "negative shape": S({"a": E(shape=(-4,))}, bytes(16)),
    "offsets of text": S({"a": {**E(), "data_offsets": ["0", "16"]}}, bytes(16)),
    "offsets of floats": S({"a": {**E(), "data_offsets": [0.0, 16.0]}}, bytes(16)),
    "one offset": S({"a": {**E(), "data_offsets": [16]}}, bytes(16)),
    "no offsets": S({"a": {"dtype": "F32", "shape": [4]}}, bytes(16)),
    "infinite": S(b'{"a": {"dtype": "F32", "shape": [4], ' b'"data_offsets": [0, Infinity]}}', bytes(16)),
    "notes that are a list": S({"__metadata__": [1], "a": E()}, bytes(16)),
    "notes of numbers": S({"__metadata__": {"a": 1}}), "a zip": f.zipped(GOOD), "a pickle": f.legacy(GOOD),
    "not a number": S({"a": E()}, b"\0\0\xc0\x7f" * 4),
}
NUMPY = {
    "objects": lambda: N({"a.npy": f.array("'|O'", data=f.pickled(RUN))}),
    "code for a shape": lambda: N({"a.npy": f.array(shape="(__import__('os').getpid(),)")}),
    "code for a type": lambda: N({"a.npy": f.array("__import__('os').system('true')")}),
    "fields": lambda: N({"a.npy": f.array("[('x', '<f4')]")}), "big-endian": lambda: N({"a.npy": f.array("'>f4'")}),
    "text": lambda: N({"a.npy": f.array("'<U1'")}), "dates": lambda: N({"a.npy": f.array("'<M8[s]'")}),
    "10^12 numbers": lambda: N({"a.npy": f.array(shape="(1000000000000,)")}),
    "negative": lambda: N({"a.npy": f.array(shape="(-4,)")}),
    "shape overflows": lambda: N({"a.npy": f.array(shape="(" + "99999999999999999," * 30 + ")")}),
    "too short": lambda: N({"a.npy": f.array(data=bytes(15))}),
    "too long": lambda: N({"a.npy": f.array(data=bytes(17))}), "no header": lambda: N({"a.npy": b"\x93NUMPY"}),
    "header beyond": lambda: N({"a.npy": f.npy("{}", length=60000)}),
    "header of 2 GB": lambda: N({"a.npy": f.npy("{}", version=2, length=2 << 30)}),
    "version 9": lambda: N({"a.npy": f.npy("{}", version=9)}),
    "nested": lambda: N({"a.npy": f.npy("(" * 9000 + ")" * 9000)}),
    "minus signs": lambda: N({"a.npy": f.npy("-" * 9000 + "1")}),
    "not an array": lambda: N({"a.npy": b"hello world, hello"}), "another file": lambda: N({"a.txt": b"x"}),
    "bomb": lambda: N({"a.npy": f.array(shape=f"({40 << 20},)", data=bytes(160 << 20))}, zipfile.ZIP_DEFLATED),
    "lzma": lambda: N({"a.npy": f.array()}, zipfile.ZIP_LZMA),
    "wrong checksum": lambda: f.patch(N({"a.npy": f.array(data=b"ABCD" * 4)}), b"ABCDABCD", b"ABCEABCD"),
    "two of one name": lambda: f.patch(N({"a.npy": f.array(), "b.npy": f.array()}), b"b.npy", b"a.npy"),
    "cut short": lambda: N({"a.npy": f.array()})[:90], "bare array": f.array,
    "a checkpoint of torch": lambda: f.zipped(GOOD),
}
