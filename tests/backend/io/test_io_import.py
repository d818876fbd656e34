import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_importing_loads_no_heavy_library():
    heavy = {"torch", "SimpleITK", "highdicom", "pydicom", "nibabel", "tifffile"}
    code = f"import sys, backend.io; sys.exit(str(sorted({heavy!r} & set(sys.modules)) or ''))"
    child = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.stderr.strip() == ""
