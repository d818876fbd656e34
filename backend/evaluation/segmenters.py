"""What is measured: anything that answers clicks on a volume with a mask on the volume's own grid."""

from typing import Protocol, cast, get_args

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from backend.device import Precision, choose_device
from backend.errors import ErrorCode, SamMed3DError
from backend.evaluation.metrics import Bools
from backend.inference.engine import Engine
from backend.inference.loading import REGION, load_engine
from backend.inference.predictor import Predictor
from backend.inference.session import Session
from backend.models.interface import PromptModel
from backend.volume import Volume

UNTRAINED = "untrained:"
BASELINES = ("threshold", "random_walker")


class Segmenter(Protocol):
    """Segments one object at a time: `start`, then prompts, each answered with the object as it is now."""

    def start(self, volume: Volume) -> None:
        """Begin a new object; nothing seen before may make it faster or better."""

    def click(self, point: npt.ArrayLike, positive: bool) -> Bools:
        """The mask (X, Y, Z) after a click at a voxel (x, y, z)."""

    def box(self, corner: npt.ArrayLike, opposite: npt.ArrayLike) -> Bools:
        """The mask (X, Y, Z) after a box from one voxel to another, both inside it."""


class SessionSegmenter:
    """A model as a user meets it: through a `Session`, with windows that follow a large object.

    Args:
        engine: the model and its device.
        extend: whether to look beyond the first window: further, closer, and at a large object's border.
    """

    def __init__(self, engine: Engine, extend: bool = True) -> None:
        self._engine = engine
        self._extend = extend
        self._session: Session | None = None

    def start(self, volume: Volume) -> None:
        """Begin with a new predictor, so that the first click always pays for its embedding."""
        self._session = Session(Predictor(self._engine, volume), self._extend)

    def click(self, point: npt.ArrayLike, positive: bool) -> Bools:
        """The mask (X, Y, Z) after a click at a voxel (x, y, z)."""
        session = self._open()
        session.click(point, positive)
        return self._segment(session)

    def box(self, corner: npt.ArrayLike, opposite: npt.ArrayLike) -> Bools:
        """The mask (X, Y, Z) after a box; a model that knows none takes it as a click at its centre."""
        session = self._open()
        session.box(corner, opposite)
        return self._segment(session)

    def _open(self) -> Session:
        if self._session is None:
            raise RuntimeError("start() comes first")
        return self._session

    @staticmethod
    def _segment(session: Session) -> Bools:
        patch = session.segment()
        mask = np.zeros(session.labels.shape, dtype=bool)
        mask[patch.slices] = patch.mask
        return mask


def make_segmenter(spec: str, device: str = "auto", precision: Precision = "auto", seed: int = 0) -> Segmenter:
    """The segmenter of a name.

    Args:
        spec: what `load_engine` knows; "untrained:NAME" for a network of the zoo with random weights; "threshold"
            for the region that is connected to a click and about as bright; "random_walker".
        device: where networks run.
        precision: of networks.
        seed: of random weights.

    Raises:
        SamMed3DError: as `load_engine`; CONFIG_INVALID for a network that is not in the zoo.
    """
    if spec == "random_walker":
        from backend.evaluation.baselines import RandomWalker

        return RandomWalker()
    if spec.startswith(UNTRAINED):
        return SessionSegmenter(_untrained(spec.removeprefix(UNTRAINED), device, precision, seed))
    if spec == "threshold":  # within its window: beyond, it would follow its own leaks, and be no baseline
        return SessionSegmenter(load_engine(REGION, device), extend=False)
    return SessionSegmenter(load_engine(spec, device, precision))


def _untrained(name: str, device: str, precision: Precision, seed: int) -> Engine:
    """A network with the random weights that a training from scratch with that seed starts from."""
    from backend.training.config import ModelSection
    from backend.training.starts import build_model

    try:
        section = ModelSection.model_validate({"name": name})
    except ValidationError as error:
        raise SamMed3DError(
            ErrorCode.MODEL_UNKNOWN,
            f"There is no network named {name!r} to try untrained.",
            f"Choose one of {', '.join(get_args(ModelSection.model_fields['name'].annotation))}.",
        ) from error
    model = build_model(section, seed).eval()
    model.walk_share = 0.0  # what is asked is what the network does by itself
    return Engine(cast(PromptModel, model), choose_device(device), precision)
