from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real volumes and the like, which lies beside the repository and is not part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "reference" / "preprocess.npz").is_file():  # not just any folder of that name
        pytest.skip("the folder shared is not beside the repository")
    return folder
