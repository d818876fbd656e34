"""Semantic segmentation with a trained image encoder and, beside it, with the same encoder untrained (table 6)."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from backend.device import autocast, choose_device, memory_told
from backend.errors import ErrorCode, SamMed3DError
from backend.evaluation.metrics import dice
from backend.inference.preprocess import normalise_quietly
from backend.io.atomic import replacing
from backend.io.boundary import writing
from backend.models.adapters import AdaptedSamMed3D
from backend.models.sam_med3d import SamMed3D
from backend.models.unetr import build_unetr
from backend.training.optimizer import build_optimizer
from backend.training.schedule import lr_factor, set_lr
from backend.training.starts import build_model, model_sizes
from backend.training.transfer_config import TransferConfig, TransferModelSection
from backend.training.transfer_data import Case, Labels, find_transfer_cases, training_batch

RESULT_NAME = "transfer.json"
ARMS = ("pretrained", "scratch")
# Of two neighbouring windows when a whole volume is segmented.
_OVERLAP = 0.5


class ArmResult(NamedTuple):
    """What came of one arm.

    Attributes:
        losses: the mean of each epoch.
        cases: Dice of each target that a validation volume shows, by the volume's name.
        targets: the mean over the volumes of each target; absent where no volume shows it.
        dice: the mean over the targets.
    """

    losses: list[float]
    cases: dict[str, dict[str, float]]
    targets: dict[str, float]
    dice: float


def transfer(config: TransferConfig) -> dict[str, ArmResult]:
    """Train and validate both arms, on the same crops and for as long, and save the result.

    They differ in the image encoder's first weights alone; the rest of UNETR starts the same in both.

    Raises:
        SamMed3DError: as `build_model`, `build_unetr` and `find_transfer_cases`; TRAINING_DIVERGED; DEVICE_MEMORY;
            FILE_WRITE.
    """
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    device = choose_device(config.run.device)
    networks = {arm: build_network(config, arm) for arm in ARMS}  # both now: an error must not wait for hours
    size = model_sizes(config.model).image_size
    train_cases, validation_cases = find_transfer_cases(config.data, size, config.run.seed)
    _make_folder(config.run.out)
    results = {}
    with memory_told(device, "Lower run.batch, or choose run.device=cpu."):
        for arm, network in networks.items():
            network.to(device)
            losses = _train(network, config, train_cases, device, arm)
            results[arm] = _validate(network, config, validation_cases, device, losses)
            network.cpu()
    write_result(config, results)
    return results


def _make_folder(folder: Path) -> None:
    """Make the folder, and see now, not after hours, that files can be written there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass


def build_network(config: TransferConfig, arm: str) -> nn.Module:
    """UNETR on the image encoder of an arm, on the CPU.

    A part that is frozen by the configuration is frozen in both arms.

    Raises:
        SamMed3DError: as `build_model` and `build_unetr`; CONFIG_INVALID, weights with adapters.
    """
    section = config.model
    model = build_model(section if arm == "pretrained" else _untrained(section), config.run.seed)
    assert isinstance(model, SamMed3D)  # which the configuration sees to
    if isinstance(model, AdaptedSamMed3D):
        raise SamMed3DError(
            ErrorCode.CONFIG_INVALID,
            f"model.weights = {section.weights} have adapters in a frozen image encoder: from scratch there is none "
            "like it.",
            "Name weights without adapters.",
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        return build_unetr(model.image_encoder, model.config, 1 + len(config.data.targets), section.features)


def _untrained(section: TransferModelSection) -> TransferModelSection:
    return section.model_copy(update={"start": "scratch", "weights": None})


def _train(
    network: nn.Module, config: TransferConfig, cases: Sequence[Case], device: torch.device, arm: str
) -> list[float]:
    """Train on the crops that the seed gives; returns the mean loss of each epoch."""
    from monai.losses import DiceCELoss

    criterion = DiceCELoss(to_onehot_y=True, softmax=True)
    optimizer = build_optimizer(network, config.optimizer)
    network.train()
    size = model_sizes(config.model).image_size
    losses, step = [], 0
    for epoch in tqdm(range(config.run.epochs), desc=arm, unit="epoch", leave=False, disable=None):
        total = 0.0
        batches = _indices(config)
        for indices in batches:
            set_lr(optimizer, lr_factor(config.optimizer, epoch, step))
            batch = training_batch(cases, size, config.run.seed, epoch, indices)
            with autocast(device, config.run.precision):
                logits = network(batch.image.to(device))
            loss = criterion(logits.float(), batch.labels.to(device))
            _step(network, optimizer, loss, config.optimizer.clip_norm)
            total, step = total + _finite(loss, arm, step), step + 1
        losses.append(total / len(batches))
    return losses


def _indices(config: TransferConfig) -> list[range]:
    """The crops of each step of an epoch."""
    count, batch = config.data.crops_per_epoch, config.run.batch
    return [range(start, min(start + batch, count)) for start in range(0, count, batch)]


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, clip_norm: float | None) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
    nn.utils.clip_grad_norm_(network.parameters(), clip_norm or math.inf)
    optimizer.step()


def _finite(loss: Tensor, arm: str, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise SamMed3DError(
            ErrorCode.TRAINING_DIVERGED,
            f"The loss of the arm {arm!r} is {value} in step {step + 1}.",
            "Lower optimizer.lr, or choose run.precision=float32.",
        )
    return value


def _validate(
    network: nn.Module, config: TransferConfig, cases: Sequence[Case], device: torch.device, losses: list[float]
) -> ArmResult:
    """Dice on whole volumes."""
    network.eval()
    found: dict[str, dict[str, float]] = {}
    for case in cases:
        image, labels = case.whole()
        predicted = segment(network, image, device, config)
        found[case.name] = {
            name: dice(predicted == label, labels == label)
            for label, name in enumerate(config.data.targets, 1)
            if (labels == label).any()
        }
    targets = {
        name: float(np.mean(scores))
        for name in config.data.targets
        if (scores := [of_case[name] for of_case in found.values() if name in of_case])
    }
    return ArmResult(losses, found, targets, float(np.mean(list(targets.values()))))


@torch.inference_mode()
def segment(
    network: nn.Module,
    image: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    device: torch.device,
    config: TransferConfig,
) -> Labels:
    """The labels (X, Y, Z) of a volume's values, by windows that overlap, each normalised by itself as in training."""
    from monai.inferers import sliding_window_inference

    def windows(values: Tensor) -> Tensor:
        normalised = torch.stack([torch.from_numpy(normalise_quietly(window.numpy())) for window in values])
        with autocast(device, config.run.precision):
            logits: Tensor = network(normalised.to(device))
        return logits.float().cpu()

    size = model_sizes(config.model).image_size
    volume = torch.from_numpy(image)[None, None]
    logits = sliding_window_inference(volume, 3 * (size,), 1, windows, overlap=_OVERLAP, mode="gaussian")
    assert isinstance(logits, Tensor)
    labels: Labels = logits[0].argmax(0).numpy().astype(np.uint8)
    return labels


def write_result(config: TransferConfig, results: dict[str, ArmResult]) -> Path:
    """Write the configuration, both arms, and by how much the pre-trained one is better, as JSON.

    Raises:
        SamMed3DError: FILE_WRITE.
    """
    pretrained, scratch = (results[arm] for arm in ARMS)
    gains = {name: score - scratch.targets[name] for name, score in pretrained.targets.items()}
    content = {
        "config": config.model_dump(mode="json"),
        "arms": {arm: result._asdict() for arm, result in results.items()},
        "gain": {"dice": pretrained.dice - scratch.dice, "targets": gains},
    }
    path = config.run.out / RESULT_NAME
    with writing(path), replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
