"""Train on ImageNet-LT's stand-in with a /dev/shm of 64 MB, Docker's default, and see that the run ends as it should.

    python tests/faults/small_shm.py            # needs Linux and a mount namespace of its own (root)

Four processes read 224x224 images in batches of 64: eight units of work that wait are 77 MB, more than /dev/shm holds.
The run must end with exit code 0. Where /dev/shm can hold no file at all it must end with one line and exit code 2, and
name --workers 0.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import conftest  # noqa: E402,F401  (the folders on sys.path)
from builders import make_folder  # noqa: E402

MOUNT = "mount -t tmpfs -o size=64m tmpfs /dev/shm && "
NO_FILES = "mount -t tmpfs -o nr_inodes=1 tmpfs /dev/shm && "  # none besides the folder itself
SETTINGS = """num_classes: 3
image_size: 224
test_resize: 256
num_epochs: 1
batch_size: 64
lr: 0.01
workers: 4
device: cpu
precision: fp32
"""


def outcome(folder: Path, mount: str, name: str) -> subprocess.CompletedProcess:
    """Train in a mount namespace of its own, and return how it ended."""
    data = folder / "data"
    lists = "".join(f"{split}_list: {data}/Small_{split}.txt\n" for split in ("train", "val", "test"))
    file = folder / f"{name}.yaml"
    file.write_text(f"data_root: {data}\n{lists}model_dir: {folder}/{name}\n{SETTINGS}")
    command = f"{mount}exec {sys.executable} {ROOT}/ImageNet-LT/main.py --cfg {file}"
    return subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True, timeout=900)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_folder(folder / "data", {"train": [300, 100, 60], "val": [9, 9, 9], "test": [9, 9, 9]})
        small = outcome(folder, MOUNT, "small")
        print(f"/dev/shm of 64 MB: exit code {small.returncode}, {small.stdout.splitlines()[-1:]}{small.stderr}")
        none = outcome(folder, NO_FILES, "none")
        print(f"/dev/shm that holds no file: exit code {none.returncode}, {none.stderr.strip()}")
    lines = none.stderr.strip().splitlines()
    refused = none.returncode == 2 and len(lines) == 1 and "--workers 0" in lines[0]
    right = small.returncode == 0 and not small.stderr and refused
    print("both ended as they should" if right else "NOT as they should")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
