"""Measure what the compact network costs beside the full-size one, a crop of each.

Both image encoders and the compact decoder, with one click and with ten, are timed in turn, several rounds, and the
best of each compared, since what else a shared machine does only adds. So are a first click into the liver of the
synthetic torso and a next one beside it, from the click to the first mask and to the last, in as many windows as they
take. The last line printed is one JSON object.

    python benchmarks/compact.py --threads 2 --rounds 10
"""

import itertools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import timing_parser

from backend.geometry import Index3
from backend.inference.engine import Engine
from backend.inference.loading import load_engine
from backend.inference.predictor import Predictor
from backend.inference.session import Session
from backend.models.config import VIT_B_ORI
from backend.models.sam_med3d import SamMed3D
from backend.models.zoo import SHIPPED
from backend.phantom import torso

CLICKS = (1, 10)


def main() -> None:
    """Measure and print."""
    arguments = timing_parser(__doc__, "--rounds", 10, "timed rounds").parse_args()
    torch.set_num_threads(arguments.threads)
    best = measure(arguments.rounds)
    for name, seconds in best.items():
        print(f"{name:16} {1000 * seconds:7.1f} ms")
    figures = {f"{name}_ms": round(1000 * seconds, 1) for name, seconds in best.items()}
    ratio = round(best["compact"] / best["full_size"], 3)
    print(json.dumps({"threads": arguments.threads, "rounds": arguments.rounds, "embedding_ratio": ratio, **figures}))


def measure(rounds: int) -> dict[str, float]:
    """The shortest time of each, in seconds."""
    torch.manual_seed(0)
    full, compact = Engine(SamMed3D(VIT_B_ORI).eval(), torch.device("cpu")), load_engine(SHIPPED, "cpu")
    rng = np.random.default_rng(0)
    crops = {e: rng.standard_normal((e.model.image_size,) * 3, dtype=np.float32) for e in (full, compact)}
    embedding = compact.embed(crops[compact])
    nothing = np.zeros_like(crops[compact])
    points = rng.uniform(0, compact.model.image_size - 1, (max(CLICKS), 3))
    labels = np.arange(max(CLICKS)) % 2
    tasks: dict[str, Callable[[], object]] = {
        "full_size": lambda: full.embed(crops[full]),
        "compact": lambda: compact.embed(crops[compact]),
    }
    phantom = torso()
    session = Session(Predictor(compact, phantom.volume))
    middle = phantom.middle_of("liver")
    tasks["first_click"] = lambda: glance(Session(Predictor(compact, phantom.volume)), middle)
    tasks["first_click_sharp"] = lambda: answer(Session(Predictor(compact, phantom.volume)), middle)
    answer(session, middle)
    following = beside(middle)
    tasks["next_click"] = lambda: taken_back(session, glance, next(following))
    tasks["next_click_sharp"] = lambda: taken_back(session, answer, next(following))
    for count in CLICKS:
        tasks[f"clicks_{count}"] = partial(compact.decode, embedding, points[:count], labels[:count], nothing)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(times[1:]) for name, times in seconds.items()}  # the first pays for what torch sets up once


def beside(point: Index3) -> Iterator[Index3]:
    """Points up to 15 voxels away, in turn: before one comes again, what is remembered of its answer is gone."""
    i, j, k = point
    return itertools.cycle([(i + n % 16, j + n // 16, k) for n in range(1, 256)])


def glance(session: Session, point: Index3) -> None:
    """Click and get the first mask, before its border is looked at."""
    session.click(point)
    session.solver.predictor.paint(next(session.solver.solve(session.history.prompts)))


def answer(session: Session, point: Index3) -> None:
    """Click and get the mask."""
    session.click(point)
    session.segment()


def taken_back(session: Session, click: Callable[[Session, Index3], None], point: Index3) -> None:
    """Click, and undo it."""
    click(session, point)
    session.history.undo()


if __name__ == "__main__":
    main()
