"""Compare the image encoder with the published, padded form of its window attention, on the full-size network.

Both forms run here, in turn, on the same weights and input: the times are the best of the repeats, the error is
max |ours - padded| / max |padded| of the embedding. Training memory is the peak resident memory of a forward and
backward pass in float32 over what the process held before it, each form in a fresh process; it includes the
gradients of the parameters, which both forms need. The last line printed is a JSON object of all figures.

    python benchmarks/encoder.py --threads 2 --repeats 3
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
from backend.models.image_encoder import ImageEncoder

FORMS: dict[str, Callable[[nn.Module], AbstractContextManager[object]]] = {"ours": nullcontext, "padded": padded}


def main() -> None:
    """Measure what the arguments ask for and print it."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.train:
        print(training_memory(arguments.train))
        return
    # Memory comes first: a process inherits the peak of the one that starts it, which must still be small then.
    memory = {form: memory_in_child(form, arguments.threads) for form in FORMS}
    print(json.dumps(figures(memory, arguments.threads, arguments.repeats)))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = timing_parser(__doc__, "--repeats", 3, "timed runs of each form")
    parser.add_argument("--train", choices=FORMS, help="print the training memory of one form, in MB, and stop")
    return parser.parse_args()


def figures(memory: dict[str, float], threads: int, repeats: int) -> dict[str, float]:
    """Time both forms and put all figures together."""
    encoder, image = make()
    seconds, embeddings = time_forms(encoder, image, repeats)
    error = (embeddings["ours"] - embeddings["padded"]).abs().max() / embeddings["padded"].abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bf16_seconds, _ = time_forms(encoder, image, repeats, forms=("ours",))
    return {
        "threads": threads,
        "repeats": repeats,
        "ours_seconds": round(seconds["ours"], 3),
        "padded_seconds": round(seconds["padded"], 3),
        "time_ratio": round(seconds["padded"] / seconds["ours"], 2),
        "relative_error": float(f"{float(error):.2e}"),
        "ours_training_mb": round(memory["ours"]),
        "padded_training_mb": round(memory["padded"]),
        "training_memory_ratio": round(memory["ours"] / memory["padded"], 3),
        "ours_bf16_seconds": round(bf16_seconds["ours"], 3),
    }


def make() -> tuple[ImageEncoder, Tensor]:
    """Return the encoder with deterministic weights, and an input."""
    encoder = ImageEncoder(VIT_B_ORI)
    fill_module(encoder)
    return encoder, torch.from_numpy(volume(VIT_B_ORI.image_size))[None, None]


@torch.inference_mode()
def time_forms(
    encoder: ImageEncoder, image: Tensor, repeats: int, forms: tuple[str, ...] = tuple(FORMS)
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Run the forms in turn; return the best time of each, in seconds, and its embedding."""
    encoder(image)  # the first run pays for what torch sets up once
    best = dict.fromkeys(forms, float("inf"))
    embeddings = {}
    for repeat in range(repeats):
        for form in forms:
            with FORMS[form](encoder):
                start = time.perf_counter()
                embeddings[form] = encoder(image)
                elapsed = time.perf_counter() - start
            best[form] = min(best[form], elapsed)
            print(f"run {repeat + 1}, {form}: {elapsed:.2f} s", file=sys.stderr)
    return best, embeddings


def memory_in_child(form: str, threads: int) -> float:
    """Return the training memory of one form, in MB, from a fresh process."""
    command = [sys.executable, __file__, "--train", form, "--threads", str(threads)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def training_memory(form: str) -> float:
    """Return the peak resident memory of a forward and backward pass over what was held before, in MB."""
    encoder, image = make()
    before = peak_mb()
    with FORMS[form](encoder):
        encoder(image).square().mean().backward()
    return peak_mb() - before


if __name__ == "__main__":
    main()
