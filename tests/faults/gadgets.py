"""Pickles that try to run code, in each form that is known, and where in a file they hide.

The payload touches a file, the canary, said in the way that the function it calls understands.
"""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np


def text(value: str) -> bytes:
    """Return the opcode that pushes a string."""
    return b"X" + struct.pack("<i", len(value.encode())) + value.encode()


def call_targets(canary: Path) -> list[tuple[str, str, list[str]]]:
    """Return functions by module and name, and the arguments that make each touch the canary."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return [
        ("builtins", "open", [str(canary), "w"]),
        ("os", "system", [touch]),
        ("posix", "system", [touch]),
        ("subprocess", "getoutput", [touch]),
        ("builtins", "exec", [code]),
        ("__builtin__", "eval", [code]),
        ("codecs", "open", [str(canary), "w"]),
        ("timeit", "timeit", [code]),
        ("torch.utils.collect_env", "run", [touch]),
        ("pathlib", "Path.touch", [str(canary)]),
    ]


def function(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def tuple_of(arguments: list[str]) -> bytes:
    return b"(" + b"".join(map(text, arguments)) + b"t"


def by_reduce(module: str, name: str, arguments: list[str]) -> bytes:
    return function(module, name) + tuple_of(arguments) + b"R"


def by_stack_global(module: str, name: str, arguments: list[str]) -> bytes:
    return text(module) + text(name) + b"\x93" + tuple_of(arguments) + b"R"


def by_instance(module: str, name: str, arguments: list[str]) -> bytes:
    return b"(" + b"".join(map(text, arguments)) + f"i{module}\n{name}\n".encode()


def by_object(module: str, name: str, arguments: list[str]) -> bytes:
    return b"(" + function(module, name) + b"".join(map(text, arguments)) + b"o"


def by_newobj(module: str, name: str, arguments: list[str]) -> bytes:
    return function(module, name) + tuple_of(arguments) + b"\x81"


def by_newobj_ex(module: str, name: str, arguments: list[str]) -> bytes:
    return function(module, name) + tuple_of(arguments) + b"}\x92"


def by_build(module: str, name: str, arguments: list[str]) -> bytes:
    """Return an object whose __setstate__ is the function."""
    start = b"ccollections\nOrderedDict\n)R}" + text("__setstate__")
    return start + function(module, name) + b"sb" + text(arguments[0]) + b"b"


def by_getattr(module: str, name: str, arguments: list[str]) -> bytes:
    """Return a call of a function that another call fetches from its module."""
    fetched = b"cbuiltins\ngetattr\n(cimportlib\nimport_module\n" + text(module) + b"\x85R" + text(name) + b"tR"
    return fetched + tuple_of(arguments) + b"R"


def by_pickle_in_pickle(module: str, name: str, arguments: list[str]) -> bytes:
    inside = b"\x80\x04" + by_reduce(module, name, arguments) + b"."
    return b"c_pickle\nloads\nB" + struct.pack("<i", len(inside)) + inside + b"\x85R"


def by_tensor(module: str, name: str, arguments: list[str]) -> bytes:
    """Return a call among the arguments of a rebuilding that PyTorch allows."""
    call = by_reduce(module, name, arguments)
    return b"ctorch._utils\n_rebuild_parameter\n(" + call + b"\x89ccollections\nOrderedDict\n)RtR"


def by_persistent_id(module: str, name: str, arguments: list[str]) -> bytes:
    return b"(" + text("storage") + by_reduce(module, name, arguments) + text("0") + text("cpu") + b"K\x01tQ"


def by_extension(module: str, name: str, arguments: list[str]) -> bytes:
    """Return a call through the registry of extension codes."""
    registered = b"ccopyreg\nadd_extension\n(" + text(module) + text(name) + b"K\x07tR0"
    return registered + b"\x82\x07" + tuple_of(arguments) + b"R"


FORMS: tuple[Callable[[str, str, list[str]], bytes], ...] = (
    by_reduce,
    by_stack_global,
    by_instance,
    by_object,
    by_newobj,
    by_newobj_ex,
    by_build,
    by_getattr,
    by_pickle_in_pickle,
    by_tensor,
    by_persistent_id,
    by_extension,
)


def hidings(gadget: bytes, innocent: bytes) -> list[bytes]:
    """Return opcodes with a gadget instead of, before, after and inside those of an innocent dictionary."""
    return [
        gadget,
        gadget + b"0" + innocent,
        innocent + gadget + b"0",
        innocent + text("more") + gadget + b"s",
        innocent + gadget + b"K\x01s",
        innocent + text("more") + b"]" * 20 + gadget + b"a" * 20 + b"s",
    ]


def hostile_pickles(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Yield a name and a pickle for every function in every form, each in the next hiding place."""
    data = {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1, 2]}
    innocent = pickle.dumps(data, 2)[2:-1]
    count = 0
    for form in FORMS:
        for module, name, arguments in call_targets(canary):
            places = hidings(form(module, name, arguments), innocent)
            yield f"{module}.{name} {form.__name__}", b"\x80\x04" + places[count % len(places)] + b"."
            count += 1


def zipped(pickled: bytes) -> bytes:
    """Return a checkpoint as PyTorch writes it, with this pickle inside."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for part, content in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"archive/{part}", content)
    return file.getvalue()


def legacy(pickled: bytes) -> bytes:
    """Return a checkpoint as PyTorch wrote it before 1.6."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps([], 2)


def tarred(pickled: bytes) -> bytes:
    """Return a checkpoint as PyTorch wrote it before 0.1.10."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            part = tarfile.TarInfo(name)
            part.size = len(pickled)
            archive.addfile(part, io.BytesIO(pickled))
    return file.getvalue()


CONTAINERS: tuple[Callable[[bytes], bytes], ...] = (zipped, legacy, tarred, bytes)
