"""What makes a good file bad, for certain: tables of a mutation's name and its function.

A mutation of bytes returns the new content; one of a place puts something else there than a file.
"""

import gzip
import io
import os
import random
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gadgets import opcodes

Bytes = Callable[[bytes, random.Random], bytes]
LONG = "9" * 5000


def hole(path: Path) -> None:
    """A terabyte that no disk holds."""
    with open(path, "wb") as file:
        file.truncate(1 << 40)


PLACES: dict[str, Callable[[Path], object]] = {
    "a terabyte": hole,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "missing": lambda path: None,
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
}


def insert(content: bytes, new: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + new + content[place:]


def zip_of(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("file", content)
    return file.getvalue()


TEXT: dict[str, Bytes] = {
    "empty": lambda content, rng: b"",
    "NUL bytes alone": lambda content, rng: bytes(rng.randint(1, 5000)),
    "a NUL byte before": lambda content, rng: b"\0" + content,
    "Latin-1": lambda content, rng: insert(content, b"\xe9 ", rng),
    "UTF-16": lambda content, rng: content.decode().encode("utf-16"),
    "UTF-32": lambda content, rng: content.decode().encode("utf-32"),
    "a surrogate": lambda content, rng: insert(content, b"\xed\xa0\x80", rng),
    "noise": lambda content, rng: b"\x89" + rng.randbytes(3000),
    "compressed": lambda content, rng: gzip.compress(content),
    "a zip file": lambda content, rng: zip_of(content),
    "blank lines": lambda content, rng: b"\n" * 50_000_000,
    "one long line": lambda content, rng: b"x" * 50_000_000,
    "letters without end": lambda content, rng: b"a\n" * 30_000_000,
}


def change_line(new: str) -> Bytes:
    """Put `new` for a random line; {path} and {label} are the first and last word of the old one, {rest} all but the last."""

    def change(content: bytes, rng: random.Random) -> bytes:
        lines = content.decode().splitlines()
        place = rng.randrange(len(lines))
        words = lines[place].split()
        lines[place] = new.format(path=words[0], label=words[-1], rest=" ".join(words[:-1]), line=lines[place])
        return "".join(f"{line}\n" for line in lines).encode()

    return change


def cut_after_word(number: int) -> Bytes:
    """The file ends in the middle of a line."""

    def cut(content: bytes, rng: random.Random) -> bytes:
        lines = content.decode().splitlines()
        place = rng.randrange(len(lines))
        return "\n".join([*lines[:place], " ".join(lines[place].split()[:number])]).encode()

    return cut


LIST: dict[str, Bytes] = (
    TEXT
    | {
        name: change_line(new)
        for name, new in {
            "a negative label": "{path} -1",
            "label 3 of 3": "{path} 3",
            "label 2 ** 63": "{path} 9223372036854775808",
            "a label without end": "{path} " + LONG,
            "a fraction": "{path} 0.5",
            "a text label": "{path} cat",
            "an Arabic digit": "{path} \u0662",
            "no label": "{path}",
            "no path": " {label}",
            "an image with two labels": "{path} 0\n{path} 1",
            "an absolute path": "/etc/passwd {label}",
            "a path that leads up": "../{path} {label}",
            "a path that leads up inside": "train/../../{path} {label}",
            "somebody's home": "~root/{path} {label}",
            "a NUL byte in a path": "train/\0/{path} {label}",
            "a missing image": "train/none.JPEG {label}",
            "a missing folder": "none/a.JPEG {label}",
            "a name without end": "train/" + "x" * 9000 + "/a {label}",
            "an image as a folder": "{path}/a.JPEG {label}",
            "a backslash": "train\\{path} {label}",
        }.items()
    }
    | {"truncated": cut_after_word(1)}
)
SPLIT: dict[str, Bytes] = (
    TEXT
    | {
        name: change_line(new)
        for name, new in {
            "verb 0": "{path} 1 0 1",
            "verb -1": "{path} 1 -1 1",
            "verb 4 of 3": "{path} 1 4 1",
            "verb 1001": "{path} 1 1001 1",
            "verb 2 ** 63": "{path} 1 9223372036854775808 1",
            "a verb without end": f"{{path}} 1 {LONG} 1",
            "a text verb": "{path} 1 take 1",
            "a fraction": "{path} 1 1.0 1",
            "an Arabic digit": "{path} 1 \u0661 1",
            "a doubled clip": "{line}\n{line}",
            "a superscript": "{path} 1 \xb9 1",
            "an absolute path": "/etc/a-b-c-d 1 1 1",
            "a path that leads up": "../../a-b-c-d 1 1 1",
            "only dots": ".. 1 1 1",
            "a NUL byte in a name": "P01-R01-Tea\0-1 1 1 1",
            "a missing clip": "P99-R01-Tea-1-F1 1 1 1",
            "no name": "1 1 1",
            "a name without end": "P01-R01-Tea-" + "x" * 9000 + " 1 1 1",
            "no dashes": "P01 1 1 1",
        }.items()
    }
    | {"truncated": cut_after_word(2)}
)
ANNOTATIONS: dict[str, Bytes] = {
    name: SPLIT[name]
    for name in (
        "empty",
        "NUL bytes alone",
        "UTF-16",
        "noise",
        "compressed",
        "blank lines",
        "one long line",
        "letters without end",
        "verb 0",
        "verb -1",
        "verb 1001",
        "verb 2 ** 63",
        "a verb without end",
        "a text verb",
        "a fraction",
        "a doubled clip",
        "truncated",
        "a superscript",
        "an absolute path",
        "a path that leads up",
        "only dots",
        "no dashes",
        "an Arabic digit",
        "a NUL byte in a name",
    )
} | {"verb 999999999": change_line("{path} 1 999999999 1"), "a negative noun": change_line("{path} 1 1 -1")}


def claiming(content: bytes, height: int, width: int) -> bytes:
    """A JPEG with another size in its header."""
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def png(width: int, height: int) -> bytes:
    """A PNG of nothing but its header and a bit of data."""
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def bitmap(width: int, height: int) -> bytes:
    return (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(100)
    )


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\n(CANARY) (w) file closefile\n(%pipe%touch CANARY) (w) file "
    b"closefile\nshowpage\n%%EOF\n"
)
IMAGE: dict[str, Bytes] = {
    "empty": TEXT["empty"],
    "NUL bytes": TEXT["NUL bytes alone"],
    "text": lambda content, rng: b"no image\n" * 200,
    "noise": TEXT["noise"],
    "truncated": lambda content, rng: content[: rng.randint(1, len(content) // 2)],
    "two bytes": lambda content, rng: content[:2],
    "a second half": lambda content, rng: content[len(content) // 2 :],
    "zeros after the header": lambda content, rng: content[:30] + bytes(600),
    "4 gigapixels": lambda content, rng: claiming(content, 65535, 65535),
    "900 megapixels": lambda content, rng: claiming(content, 30000, 30000),
    "150 megapixels": lambda content, rng: claiming(content, 10000, 15000),
    "no pixel": lambda content, rng: claiming(content, 0, 0),
    "no column": lambda content, rng: claiming(content, 40, 0),
    "no row": lambda content, rng: claiming(content, 0, 40),
    "a PNG of 10 gigapixels": lambda content, rng: png(100_000, 100_000),
    "a PNG of 160 megapixels": lambda content, rng: png(16_000, 10_000),
    "a PNG of 2 ** 62 pixels": lambda content, rng: png(2**31 - 1, 2**31 - 1),
    "a bitmap of 10 gigapixels": lambda content, rng: bitmap(100_000, 100_000),
    "a cut PNG": lambda content, rng: png(40, 40)[:60],
    "a PostScript program": lambda content, rng: EPS,
    "a markup picture": lambda content, rng: b"<svg width='9' height='9'/>",
    "compressed": TEXT["compressed"],
    "markers alone": lambda content, rng: b"\xff\xd8" + b"\xff" * 5000,
    "start and end": lambda content, rng: b"\xff\xd8\xff\xd9",
}
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n"
VIDEO: dict[str, Bytes] = {
    "empty": TEXT["empty"],
    "NUL bytes": TEXT["NUL bytes alone"],
    "text": lambda content, rng: b"no video\n" * 200,
    "noise": TEXT["noise"],
    "truncated": lambda content, rng: content[: rng.randint(1, len(content) * 6 // 10)],
    "the end alone": lambda content, rng: content[-rng.randint(1, 400) :],
    "compressed": TEXT["compressed"],
    "UTF-16": lambda content, rng: "no video".encode("utf-16") * 99,
    "a playlist": lambda content, rng: PLAYLIST,
    "a list of files": lambda content, rng: b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "boxes without end": lambda content, rng: b"\0\0\0\1ftyp" + b"\xff" * 5000,
    "a box of 2 ** 62 bytes": lambda content, rng: (
        content[:32] + b"\0\0\0\1moov" + struct.pack(">Q", 1 << 62) + bytes(99)
    ),
}


PICKLE: dict[str, Bytes] = {
    "empty": TEXT["empty"],
    "NUL bytes": TEXT["NUL bytes alone"],
    "noise": TEXT["noise"],
    "text": lambda content, rng: b"no pickle\n",
    "compressed": TEXT["compressed"],
    "a zip file": TEXT["a zip file"],
    "truncated": lambda content, rng: content[: rng.randrange(len(content) - 1)],
    "frames without end": lambda content, rng: b"\x80\x04" + b"\x95" + b"\xff" * 8,
    "bytes without end": lambda content, rng: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 33) + b"x.",
    "a text without end": lambda content, rng: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "a number without end": lambda content, rng: b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "a number in letters": lambda content, rng: b"L" + b"9" * 3_000_000 + b"L\n.",
    "an array of a terabyte": lambda content, rng: (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR(K\x01\x8a\x06\0\0\0\0\0\1M\x00\x0c\x86cnumpy\ndtype"
        b"\n(X\x02\x00\x00\x00u1K\x00K\x01tR\x89C\x01xtb."
    ),
    "no end": lambda content, rng: content[:-1],
}


def cifar_entry(change: Callable[[dict], object]) -> Bytes:
    """A small CIFAR-10 file, whose entry is changed."""

    def mutate(content: bytes, rng: random.Random) -> bytes:
        entry = {b"data": np.zeros((70, 3072), np.uint8), b"labels": [n % 10 for n in range(70)]}
        changed = change(entry)
        pickled = opcodes(entry if isinstance(changed, (type(None), int)) else changed)
        return b"\x80\x02" + pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n") + b"."

    return mutate


def labels(*last: object) -> Callable[[dict], object]:
    return lambda entry: {**entry, b"labels": [*entry[b"labels"][: -len(last)], *last]}


CIFAR: dict[str, Bytes] = PICKLE | {
    name: cifar_entry(change)
    for name, change in {
        "a negative label": labels(-1),
        "label 10 of 10": labels(10),
        "label 2 ** 70": labels(2**70),
        "a text label": labels("1"),
        "a fraction": labels(1.0),
        "True as a label": labels(True),
        "no label": labels(None),
        "a label too few": lambda entry: {**entry, b"labels": entry[b"labels"][1:]},
        "labels missing": lambda entry: {b"data": entry[b"data"]},
        "data missing": lambda entry: {b"labels": entry[b"labels"]},
        "data as floats": lambda entry: {**entry, b"data": entry[b"data"].astype(np.float32)},
        "data too narrow": lambda entry: {**entry, b"data": entry[b"data"][:, 1:]},
        "data as bytes": lambda entry: {**entry, b"data": b"x" * 3072},
        "data as a list": lambda entry: {**entry, b"data": [[0] * 3072]},
        "no image": lambda entry: {b"data": entry[b"data"][:0], b"labels": []},
        "a list": lambda entry: [entry],
        "a number": lambda entry: {1: entry},
        "an array of objects": lambda entry: {**entry, b"data": np.empty((70, 3072), object)},
        "dates": lambda entry: {**entry, b"data": entry[b"data"].astype("M8[s]")},
    }.items()
}
NAMES: dict[str, Bytes] = PICKLE | {
    name: cifar_entry(change)
    for name, change in {
        "no names": lambda entry: {b"x": []},
        "a name too few": lambda entry: {b"label_names": [b"x"] * 9},
        "numbers for names": lambda entry: {b"label_names": list(range(10))},
        "a list": lambda entry: [b"x"] * 10,
    }.items()
}


def cut_before(mark: bytes) -> Bytes:
    """Truncated anywhere before the last place of `mark`."""
    return lambda content, rng: content[: rng.randrange(1, content.rindex(mark))]


def set_first_value(new: str) -> Bytes:
    """Of a log's second column, in a random row."""

    def change(content: bytes, rng: random.Random) -> bytes:
        head, *rows = content.decode().splitlines()
        place = rng.randrange(len(rows))
        epoch, _, *rest = rows[place].split(",")
        rows[place] = ",".join([epoch, new, *rest])
        return "".join(f"{line}\n" for line in (head, *rows)).encode()

    return change


LOG: dict[str, Bytes] = (
    TEXT
    | {
        "truncated": cut_before(b","),
        "the header alone": lambda content, rng: content.split(b"\n")[0] + b"\n",
        "no header": lambda content, rng: content.split(b"\n", 1)[1],
        "an epoch again": lambda content, rng: content + content.split(b"\n", 1)[1],
        "epoch 0": lambda content, rng: content.replace(b"\n1,", b"\n0,"),
        "epoch -1": lambda content, rng: content.replace(b"\n1,", b"\n-1,"),
        "epoch 10 ** 7": lambda content, rng: content.replace(b"\n1,", b"\n10000000,"),
        "an epoch without end": lambda content, rng: content.replace(b"\n1,", f"\n{LONG},".encode()),
        "half an epoch": lambda content, rng: content.replace(b"\n1,", b"\n1.5,"),
        "a value too many": lambda content, rng: content[:-1] + b",1\n",
        "semicolons": lambda content, rng: content.replace(b",", b";"),
        "a column twice": lambda content, rng: re.sub(rb"(.*)\n(.*)\n(?s:.*)", rb"\1,epoch\n\2,1\n", content),
        "short rows without end": lambda content, rng: b"epoch\n" + b"1\n" * 32_000_000,
        "columns without end": lambda content, rng: b"epoch" + b",a" * 30_000_000 + b"\n1\n",
    }
    | {
        f"{name} for a value": set_first_value(value)
        for name, value in {
            "nan": "nan",
            "infinity": "inf",
            "text": "one",
            "1e400": "1e400",
            "an Arabic digit": "\u0661",
            "a number without end": LONG,
            "a formula": "=1+1",
            "a quote": '"1',
            "an underscore": "1_0",
            "hexadecimal": "0x10",
        }.items()
    }
)
DESCRIPTION: dict[str, Bytes] = (
    TEXT
    | {  # noqa: C416
        "truncated": cut_before(b"}"),
        "brackets without end": lambda content, rng: b"[" * 1_000_000,
    }
    | {
        f"class counts {name}": (
            lambda content, rng, value=value: re.sub(
                rb'"class_counts": \[[^]]*\]', b'"class_counts": ' + value, content
            )
        )
        for name, value in {
            "text": b'"x"',
            "a number": b"5",
            "nested": b"[[1, 2], [3, 4]]",
            "in columns": b"[[1], [2], [3]]",
            "none": b"[]",
            "null": b"null",
            "of null": b"[null, 1, 1]",
            "negative": b"[-5, 1, 1]",
            "zero": b"[0, 1, 1]",
            "nan": b"[NaN, 1, 1]",
            "infinite": b"[Infinity, 1, 1]",
            "of 400 digits": b"[" + b"9" * 400 + b", 1, 1]",
            "too many": b"[" + b"1, " * 500 + b"1]",
            "missing": b'[], "x": 1',
        }.items()
    }
    | {
        "no loss": lambda content, rng: content.replace(b"loss_type", b"lost_type"),
        "arguments a list": lambda content, rng: content.replace(b'"arguments": {', b'"arguments": [], "x": {'),
        "a list": lambda content, rng: b"[" + content + b"]",
    }
)


def flip(content: bytes, rng: random.Random) -> bytes:
    """One to eight other bytes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


FUZZED: dict[str, Bytes] = {"other bytes": flip}
