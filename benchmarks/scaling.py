"""What the first training stage costs on many GPUs: a few measured numbers, and a model of the rest.

Measured here: the operations of training on one sample (counted, not timed), the bytes of gradients that ranks
exchange, and the time one CPU core takes to read a 128^3 sample from prepared volumes. Assumed, and given as options:
the GPU's peak, the share of it that training reaches, the bandwidth between GPUs, and the CPU cores beside each. From
these follow, for each number of GPUs, the seconds of an optimizer step if only computing, only reading or only
exchanging gradients took time; the longest is the bottleneck, for the three overlap. The last line printed is a JSON
object of all figures.

    python benchmarks/scaling.py --samples 24
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import positive

from backend.data.dataset import IndexDataset
from backend.data.index import read_index
from backend.data.sample import Key
from backend.models.config import VIT_B_ORI
from backend.models.network import build_network
from backend.prepare import main as prepare
from backend.synthesize import main as synthesize
from backend.training.config import ClickSection
from backend.training.episode import TrainedModel
from backend.training.freezing import freeze
from backend.training.throughput import sample_flops

MASKS, EPOCHS, SAMPLES_PER_STEP = 131_000, 800, 240
GPUS = (1, 8, 64)


def main() -> None:
    """Measure, project, print."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    measured = {**count_network(), "read_ms": time_reading(arguments.samples)}
    projected = {str(gpus): project(gpus, measured, arguments) for gpus in GPUS}
    assumed = {name: value for name, value in vars(arguments).items() if name != "samples"}
    print(json.dumps({"measured": measured, "assumed": assumed, "projected": projected}))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=positive, default=24, help="samples that are read for the time of one")
    parser.add_argument("--peak-tflops", type=float, default=989, help="of a GPU, bfloat16 without sparsity")
    parser.add_argument("--utilisation", type=float, default=0.3, help="share of the peak that training reaches")
    parser.add_argument("--node-gb-s", type=float, default=400, help="GB/s between the GPUs of a machine of 8")
    parser.add_argument("--network-gb-s", type=float, default=40, help="GB/s for each GPU between machines")
    parser.add_argument("--cores", type=positive, default=12, help="CPU cores for each GPU that read data")
    return parser.parse_args()


def count_network() -> dict[str, float]:
    """Operations of one sample's training, and bytes of the gradients, of the full-size network."""
    model = build_network(VIT_B_ORI)
    freeze(model)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    tflop = sample_flops(cast(TrainedModel, model), ClickSection(), model.image_size) / 1e12
    return {"sample_tflop": round(tflop, 3), "gradient_mb": round(4 * trained / 1e6)}


def time_reading(samples: int) -> float:
    """Milliseconds to read a sample of 128^3 with jitter and flips on one core, from the disk's cache."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        synthesize([str(source), "--count", "4", "--size", "192"])
        prepare([str(source), str(out), "--workers", "1", "--max-background", "1", "--validation", "0"])
        data = IndexDataset(out, read_index(out), VIT_B_ORI.image_size, 0, crop="jitter", jitter=16, flips=True)
        data[Key(0, 0)]  # the first read pays for what is set up once
        start = time.perf_counter()
        for number in range(samples):
            data[Key(number // len(data), number % len(data))]
        return round((time.perf_counter() - start) / samples * 1000, 1)


def project(gpus: int, measured: dict[str, float], assumed: argparse.Namespace) -> dict[str, float | str]:
    """Seconds of a step by each of its parts alone, the longest, and what the whole stage comes to."""
    seconds = {
        "compute": SAMPLES_PER_STEP / gpus * measured["sample_tflop"] / (assumed.peak_tflops * assumed.utilisation),
        "read": SAMPLES_PER_STEP / (gpus * assumed.cores) * measured["read_ms"] / 1000,
        "exchange": exchange_seconds(gpus, measured["gradient_mb"] / 1000, assumed),
    }
    bottleneck = max(seconds, key=lambda part: seconds[part])
    hours = seconds[bottleneck] * MASKS * EPOCHS / SAMPLES_PER_STEP / 3600
    rounded = {f"{part}_s": round(value, 4) for part, value in seconds.items()}
    return {**rounded, "bottleneck": bottleneck, "hours": round(hours, 1), "gpu_hours": round(hours * gpus)}


def exchange_seconds(gpus: int, gradient_gb: float, assumed: argparse.Namespace) -> float:
    """A ring all-reduce sends nearly twice the gradients over the slowest link."""
    if gpus == 1:
        return 0.0
    bandwidth: float = assumed.node_gb_s if gpus <= 8 else assumed.network_gb_s
    return 2 * (gpus - 1) / gpus * gradient_gb / bandwidth


if __name__ == "__main__":
    main()
