"""Speed and memory of preparing a set in UMDFaces' layout.

    python -m benchmarks.prepare_speed                       # 2,000 and 20,000 images
    python -m benchmarks.prepare_speed --counts=2000 --broken=0.01 --format=arrays

Writes synthetic pictures of 250 x 250 pixels (about 15 kB each, 200 different ones) in UMDFaces' layout to a temporary
folder and prepares them with the documented command. Prints images/s (with and without the start of the processes)
and the highest resident memory of the command and of its largest worker. The number of broken pictures, truncated or
empty, must be reported exactly.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

SIDE = 250
POINTS = 21


@dataclasses.dataclass
class Run:
    """The result of one preparation: seconds, peak bytes of the command and of each other process, its last line."""

    seconds: float
    parent: int
    workers: dict[int, int]
    said: str
    first_face_seconds: float


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=lambda text: [int(part) for part in text.split(",")], default=[2000, 20000])
    parser.add_argument("--format", default="array_record")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--broken", type=float, default=0.0, help="fraction of the images to break")
    parser.add_argument("--folder", help="where to write (default: a temporary folder)")
    args = parser.parse_args()
    print("images   workers   seconds   images/s   images/s after start   command MB   largest worker MB")
    for count in args.counts:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            root = pathlib.Path(folder)
            broken = write_umdfaces(root / "UMDFaces", count, args.broken)
            run = prepare(root, args.format, args.workers)
            largest = max(run.workers.values(), default=0)
            after = count / (run.seconds - run.first_face_seconds)
            print(
                f"{count:6d} {args.workers:9d} {run.seconds:9.1f} {count / run.seconds:10.0f} {after:22.0f}"
                f" {run.parent / 1e6:12.0f} {largest / 1e6:19.0f}   {run.said}"
            )
            match = re.search(r"(\d+) faces, (\d+) skipped", run.said)
            if not match or (int(match[1]), int(match[2])) != (count - broken, broken):
                sys.exit(f"expected {count - broken} faces and {broken} skipped")


def write_umdfaces(root: pathlib.Path, count: int, broken: float = 0.0) -> int:
    """Writes a batch of UMDFaces with synthetic pictures; returns the number of broken ones."""
    batch = root / "umdfaces_batch1"
    random = np.random.default_rng(0)
    pictures = [_picture(random) for _ in range(min(200, count))]
    bad = set(random.choice(count, int(count * broken), replace=False).tolist())
    batch.mkdir(parents=True)
    with open(batch / "umdfaces_batch1_ultraface.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            [
                "SUBJECT_ID",
                "FILE",
                "FACE_X",
                "FACE_Y",
                "FACE_WIDTH",
                "FACE_HEIGHT",
                "YAW",
                *(
                    f"{kind}{k}{axis}"
                    for k in range(1, POINTS + 1)
                    for kind, axis in (("P", "X"), ("P", "Y"), ("VIS", ""))
                ),
            ]
        )
        for row in range(count):
            name = f"subject{row // 50:05d}/{row:06d}.jpg"
            path = batch / name
            if row % 50 == 0:
                path.parent.mkdir()
            data = pictures[row % len(pictures)]
            path.write_bytes((data[: len(data) // 2] if row % 2 else b"") if row in bad else data)
            points = np.concatenate([random.uniform(70, 180, (POINTS, 2)), np.ones((POINTS, 1))], axis=1)
            numbers = [60, 55, 130, 140, random.uniform(-90, 90), *points.ravel()]
            writer.writerow([row // 50, name, *(f"{number:.3f}" for number in numbers)])
    return len(bad)


def _picture(random: np.random.Generator) -> bytes:
    smooth = cv2.resize(
        random.integers(0, 256, (12, 12, 3)).astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC
    )
    noisy = np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def prepare(root: pathlib.Path, format: str, workers: int) -> Run:
    """Runs the command and monitors its processes."""
    command = [
        sys.executable,
        "-m",
        "scripts.prepare_data",
        "umdfaces",
        f"--input={root / 'UMDFaces'}",
        f"--output={root / 'prepared'}",
        f"--format={format}",
        f"--workers={workers}",
    ]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    parent, others, first = 0, {}, 0.0
    while process.poll() is None:
        parent = max(parent, _peak_bytes(process.pid))
        for pid in _descendants(process.pid):
            others[pid] = max(others.get(pid, 0), _peak_bytes(pid))
        if not first and any(path.stat().st_size for path in root.glob(".prepared.partial/working-*/seen")):
            first = time.monotonic() - start
        time.sleep(0.1)
    return Run(time.monotonic() - start, parent, others, process.stdout.read().strip(), first)


def _peak_bytes(pid: int) -> int:
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+) kB", text)
    return int(match[1]) * 1024 if match else 0


def _descendants(pid: int) -> list[int]:
    found, wave = [], [pid]
    while wave:
        wave = [child for one in wave for child in _children(one)]
        found += wave
    return found


def _children(pid: int) -> list[int]:
    children = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return children


if __name__ == "__main__":
    main()
