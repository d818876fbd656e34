import multiprocessing
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def fork_server() -> None:
    """A server that has imported everything starts the processes of tiny runs, if there is none yet."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tiny_run", "monai.losses", "matplotlib.figure", "torch.utils.tensorboard"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[3])]))
        process = context.Process(target=int)
        process.start()
        process.join()
