"""Measure what a click costs beside the image encoder's own time, for volumes from small to large.

A first click is all that a user waits for: laying the grid, cutting and resampling the crop, the encoder, the
decoder, and painting the mask on the volume's own grid. A next click finds the embedding there already. The
encoder is timed alone on a crop of the same size. Weights are random (seeded): the network's time does not depend
on them, and the mask is ragged and takes up some two fifths of the window.

All are timed in turn, several rounds, and the best of each compared, since what else a shared machine does only
adds. The last line printed is one JSON object: the encoder's best time, and those of the clicks over it.

    python benchmarks/clicks.py --threads 2 --rounds 5
"""

import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import timing_parser

from backend.inference.engine import Engine
from backend.inference.predictor import Predictor
from backend.inference.session import Session
from backend.models.config import VIT_B_ORI
from backend.models.sam_med3d import SamMed3D
from backend.volume import Volume

# Name, voxels and mm along (x, y, z).
SIZES = {
    "128": ((128, 128, 128), (1.5, 1.5, 1.5)),
    "256": ((256, 256, 256), (1.0, 1.0, 1.0)),
    "512x300": ((512, 512, 300), (0.8, 0.8, 1.0)),
}
Seconds = dict[str, list[float]]


def main() -> None:
    """Measure and print."""
    arguments = timing_parser(__doc__, "--rounds", 5, "timed rounds").parse_args()
    torch.set_num_threads(arguments.threads)
    seconds = measure(arguments.rounds)
    best = {name: min(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"{name:16} best {min(values):.3f} s, worst {max(values):.3f} s")
    print(json.dumps({"threads": arguments.threads, "rounds": arguments.rounds, **ratios(best)}))


def measure(rounds: int) -> Seconds:
    """Time the encoder and both clicks into each volume, in turn."""
    torch.manual_seed(0)
    engine = Engine(SamMed3D(VIT_B_ORI).eval(), torch.device("cpu"))
    volumes = {name: make(shape, spacing) for name, (shape, spacing) in SIZES.items()}
    crop = np.random.default_rng(0).standard_normal((VIT_B_ORI.image_size,) * 3, dtype=np.float32)
    engine.embed(crop)  # the first run pays for what torch sets up once
    seconds: Seconds = defaultdict(list)
    for _ in range(rounds):
        for name, volume in volumes.items():
            start = time.perf_counter()
            engine.embed(crop)
            seconds["encoder"].append(time.perf_counter() - start)
            first, following = clicks(engine, volume)
            seconds[f"first_{name}"].append(first)
            seconds[f"next_{name}"].append(following)
    return seconds


def make(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Volume:
    """Noise, int16, oriented as CT scanners write it."""
    voxels = np.random.default_rng(0).integers(-1000, 1000, shape, dtype=np.int16)
    return Volume(voxels, np.diag([-spacing[0], -spacing[1], spacing[2], 1]))


def clicks(engine: Engine, volume: Volume) -> tuple[float, float]:
    """Seconds of the first and of the next click, from the volume to the mask on its grid."""
    x, y, z = (n // 2 for n in volume.shape)
    start = time.perf_counter()
    session = Session(Predictor(engine, volume), extend=False)
    session.click((x, y, z))
    session.segment()
    between = time.perf_counter()
    session.click((x + 5, y, z))
    session.segment()
    return between - start, time.perf_counter() - between


def ratios(best: dict[str, float]) -> dict[str, float]:
    """The encoder's time, and the clicks' over it, which depend less on the machine."""
    encoder = best["encoder"]
    first = [best[f"first_{name}"] for name in SIZES]
    kinds = [(kind, name) for name in SIZES for kind in ("first", "next")]
    out = {f"{kind}_over_encoder_{name}": best[f"{kind}_{name}"] / encoder for kind, name in kinds}
    out["first_spread"] = max(first) / min(first)
    return {"encoder_seconds": round(encoder, 3), **{name: round(ratio, 3) for name, ratio in out.items()}}


if __name__ == "__main__":
    main()
