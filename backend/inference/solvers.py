"""Which solver goes with a model."""

from backend.inference.following import FollowingSolver
from backend.inference.predictor import Predictor
from backend.inference.solver import Solver
from backend.inference.zooming import ZoomingSolver


def make_solver(predictor: Predictor, extend: bool = True) -> Solver:
    """A solver for the predictor's model.

    Args:
        predictor: model and volume.
        extend: whether to look beyond the first window where the object is larger, or smaller, than it.
    """
    kind = ZoomingSolver if predictor.engine.model.any_spacing else FollowingSolver
    return kind(predictor, extend)
