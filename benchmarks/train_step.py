"""Compare one optimizer step of the full-size network with the same in the published, padded form of its attention.

A step is an episode of 11 simulated clicks on one crop, its backward pass, and AdamW. Both forms start from the same
weights, crop and clicks; the step is run once before it is timed, since the first one makes the optimizer's state, and
the best of the repeats counts. Memory is the peak resident memory of two steps over what the process held with the
network made, float32, each form in a fresh process; gradients and AdamW's state, which both forms need, are in it.
Only the attention differs: the episode is ours in both forms. Their losses differ by more than rounding, since a voxel
whose logit rounds to the other side of 0 moves the clicks that follow. The last line printed is a JSON object of all
figures.

    python benchmarks/train_step.py --threads 2 --repeats 1
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests" / "backend" / "models"))

from common import peak_mb, timing_parser
from deterministic import fill_module, volume
from padded import padded

from backend.models.config import VIT_B_ORI
from backend.models.sam_med3d import SamMed3D
from backend.training.config import ClickSection
from backend.training.episode import Episode
from backend.training.freezing import freeze

FORMS: dict[str, Callable[[nn.Module], AbstractContextManager[object]]] = {"ours": nullcontext, "padded": padded}


def main() -> None:
    """Measure what the arguments ask for and print it."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.form:
        print(json.dumps(measure(arguments.form, arguments.repeats)))
        return
    found = {form: in_child(form, arguments) for form in FORMS}
    print(json.dumps(figures(found, arguments)))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = timing_parser(__doc__, "--repeats", 1, "timed steps of each form")
    parser.add_argument("--form", choices=FORMS, help="measure one form in this process and stop")
    return parser.parse_args()


def in_child(form: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure one form in a fresh process."""
    options = ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
    command = [sys.executable, __file__, "--form", form, *options]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def measure(form: str, repeats: int) -> dict[str, float]:
    """Run steps of one form; return seconds of the fastest, MB of memory, and the loss of the first."""
    episode, samples = make()
    optimizer = torch.optim.AdamW([p for p in episode.parameters() if p.requires_grad], lr=1e-5)
    before = peak_mb()
    seconds, losses = [], []
    with FORMS[form](episode):
        for number in range(1 + repeats):
            start = time.perf_counter()
            losses.append(step(episode, optimizer, samples))
            seconds.append(time.perf_counter() - start)
            print(f"{form}, step {number + 1}: {seconds[-1]:.2f} s", file=sys.stderr)
    return {"seconds": min(seconds[1:]), "mb": peak_mb() - before, "loss": losses[0]}


def make() -> tuple[Episode, tuple[Tensor, Tensor, Tensor]]:
    """Return the episode of the network with deterministic weights, and one sample: image, mask, key."""
    model = SamMed3D(VIT_B_ORI)
    fill_module(model)
    freeze(model)
    image = torch.from_numpy(volume(VIT_B_ORI.image_size))[None, None]
    return Episode(model, ClickSection()).train(), (image, image > 1, torch.tensor([0]))


def step(episode: Episode, optimizer: torch.optim.Optimizer, samples: tuple[Tensor, Tensor, Tensor]) -> float:
    """Learn from the sample once; return its loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = episode(*samples).loss.mean()
    loss.backward()
    optimizer.step()
    value: float = loss.item()
    return value


def figures(found: dict[str, dict[str, float]], arguments: argparse.Namespace) -> dict[str, float]:
    """Put all figures together."""
    ours, rival = found["ours"], found["padded"]
    return {
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "ours_seconds": round(ours["seconds"], 2),
        "padded_seconds": round(rival["seconds"], 2),
        "time_ratio": round(rival["seconds"] / ours["seconds"], 2),
        "ours_mb": round(ours["mb"]),
        "padded_mb": round(rival["mb"]),
        "memory_ratio": round(ours["mb"] / rival["mb"], 3),
        "ours_loss": round(ours["loss"], 4),
        "padded_loss": round(rival["loss"], 4),
    }


if __name__ == "__main__":
    main()
