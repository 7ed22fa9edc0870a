"""Training clips/s on one core: egtea_dataset.py against a straightforward loader, timed alternately in one run.

    python tests/benchmarks/clip_loading.py [--rounds 7] [--clips 12]

Straightforward: each of a clip's 10 frames read at full size (cv2.imread), cut to the random square, turned,
mirrored, resized, made floats and reduced by the mean. Ours: what EGTEA_train.py runs, without extra workers. Frames
are 640x480: a photograph that comes with scikit-learn, panned, encoded as video and extracted by extract_frames.py as
a user's clips are.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "EGTEA"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "EGTEA/data"))

from egtea_clips import clip_folder
from egtea_dataset import MAX_ANGLE, MEAN, ClipSet, batches_of, frame_indices
from extract_frames import extract
from longtail.devices import Runtime

FRAMES, SIZE, HEIGHT, WIDTH = 10, 224, 480, 640


def write_clip(root: Path, clip: str, speed: int) -> None:
    """60 frames of a camera that pans over a photograph."""
    from sklearn.datasets import load_sample_image

    scene = cv2.resize(load_sample_image("china.jpg")[:, :, ::-1], (WIDTH + 60 * speed, HEIGHT))
    video = root / f"{clip}.mp4"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"mp4v"), 24, (WIDTH, HEIGHT))
    for frame in range(60):
        writer.write(np.ascontiguousarray(scene[:, frame * speed : frame * speed + WIDTH]))
    writer.release()
    trouble = extract(video, root / "frames" / clip_folder(video.stem), every=1, allow_short=False)
    if trouble:
        raise SystemExit(f"{video} {trouble}")


def straightforward(clips: ClipSet) -> Callable[[int, int], torch.Tensor]:
    """One clip, (3, T, H, W) floats, each step by itself on every frame."""
    mean = np.array(MEAN, np.float32)

    def load(index: int, seed: int) -> torch.Tensor:
        generator = np.random.default_rng(seed)
        names = clips.names[index]
        chosen = frame_indices(len(names), FRAMES, generator)
        left, angle = int(generator.integers(WIDTH - HEIGHT + 1)), generator.uniform(-MAX_ANGLE, MAX_ANGLE)
        flip = generator.random() < 0.5
        frames = []
        for i in chosen:
            frame = cv2.imread(str(clips.folders[index] / names[i]))
            square = frame[:, left : left + HEIGHT]
            turned = cv2.warpAffine(
                square, cv2.getRotationMatrix2D((HEIGHT / 2, HEIGHT / 2), angle, 1.0), (HEIGHT, HEIGHT)
            )
            mirrored = cv2.flip(turned, 1) if flip else turned
            small = cv2.cvtColor(cv2.resize(mirrored, (SIZE, SIZE)), cv2.COLOR_BGR2RGB)
            frames.append(small.astype(np.float32) - mean)
        return torch.from_numpy(np.stack(frames).transpose(3, 0, 1, 2))

    return load


def ours(clips: ClipSet) -> Callable[[int, int], torch.Tensor]:
    """The same through the functions of the training script."""
    runtime = Runtime(torch.device("cpu"))
    return lambda index, seed: next(iter(batches_of(clips, [torch.tensor([index])], lambda _: seed, 0, runtime)))[0]


def speed(load: Callable[[int, int], torch.Tensor], clips: ClipSet, count: int) -> float:
    """Clips/s, in processor time of this process: other work on the machine does not count."""
    start = time.process_time()
    for seed in range(count):
        load(seed % len(clips), seed)
    return count / (time.process_time() - start)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=12, help="a round")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        names = [f"P0{i}-R01-Pan-{i}" for i in range(3)]
        for i, name in enumerate(names):
            write_clip(Path(folder), name, speed=2 + i)
        clips = ClipSet(Path(folder) / "frames", [(name, 0) for name in names], FRAMES, SIZE)
        sizes = [path.stat().st_size for path in Path(folder).rglob("*.jpg")]
        print(
            f"frames of {WIDTH}x{HEIGHT}, {statistics.mean(sizes) / 1024:.0f} kB each on average; "
            f"OpenCV {cv2.__version__}, one thread"
        )
        loaders = ours(clips), straightforward(clips)
        for load in loaders:
            speed(load, clips, 3)
        rounds = [tuple(speed(load, clips, args.clips) for load in loaders) for _ in range(args.rounds)]
    print(f"median (smallest to largest) of {args.rounds} alternating rounds")
    print(f"this repository {spread([mine for mine, _ in rounds])} clips/s")
    print(f"straightforward {spread([theirs for _, theirs in rounds])} clips/s")
    print(f"ratio {spread([mine / theirs for mine, theirs in rounds])}")


if __name__ == "__main__":
    main()
