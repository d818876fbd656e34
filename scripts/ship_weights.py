"""Make a run's weights the ones that come with the package: `python scripts/ship_weights.py runs/compact`."""

import sys
from pathlib import Path

from backend.models import zoo
from backend.models.checkpoint import load_model, save_safetensors

MOST_BYTES = 25_000_000


def main(run: Path) -> int:
    """Write them in half precision, which halves the wheel, unless they are too large."""
    target = zoo.weights_path(zoo.SHIPPED)
    beside = target.with_suffix(".new")
    save_safetensors(load_model(run / "weights.safetensors", zoo.entry(zoo.SHIPPED).config).half(), beside)
    size = beside.stat().st_size
    if size > MOST_BYTES:
        beside.unlink()
        print(f"{run}: {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}: not shipped", file=sys.stderr)
        return 1
    beside.replace(target)
    print(f"{target}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
