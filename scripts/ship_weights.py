"""Make a run's weights the ones that come with the package: `python scripts/ship_weights.py runs/compact`."""

import sys
from pathlib import Path

from backend.models import zoo
from backend.models.checkpoint import load_model, save_safetensors

MOST_BYTES = 25_000_000


def main(run: Path) -> int:
    """Write them in half precision, which changes no mask that anyone could see, and halves the wheel."""
    target = zoo.weights_path(zoo.SHIPPED)
    save_safetensors(load_model(run / "weights.safetensors", zoo.entry(zoo.SHIPPED).config).half(), target)
    size = target.stat().st_size
    print(f"{target}: {size / 1e6:.1f} MB")
    return int(size > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
