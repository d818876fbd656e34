"""The run from its start, or from where it was left, to its end, as one rank lives it."""

import time
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, cast

from tqdm import tqdm

from backend.data.build import build_datasets
from backend.data.sample import Sample
from backend.errors import ErrorCode, SamMed3DError, SamMed3DWarning
from backend.training.batches import Batches, deaths_told
from backend.training.config import TrainConfig
from backend.training.episode import TrainedModel
from backend.training.export import export
from backend.training.folder import CHECKPOINTS_NAME, LOG_NAME, claim_folder, fingerprint, lock_folder, sweep_folder
from backend.training.learner import Learner, StepReport
from backend.training.logs import RunLog
from backend.training.optimizer import group_lrs
from backend.training.plan import Plan, Window
from backend.training.plots import plot_run
from backend.training.schedule import lr_factor
from backend.training.starts import build_model
from backend.training.state import Checkpoints, Counters
from backend.training.stop import Stop
from backend.training.throughput import Meter, peak_memory, sample_flops
from backend.training.validation import Validation, score
from backend.training.world import World


def train(config: TrainConfig, world: World, stop: Stop) -> None:
    """Train, from the newest checkpoint in the run's folder if there is one.

    Args:
        config: of the run.
        world: this rank among the others; all call this with the same configuration.
        stop: once it is requested on any rank, all save at the end of the step and return.

    Raises:
        SamMed3DError: RUN_STATE, the folder is of another run; TRAINING_DIVERGED; FILE_WRITE; whatever is wrong
            with the data, the weights to start from, or the device.
    """
    lock = lock_folder(config.run.out) if world.first else None
    try:
        if world.first:
            claim_folder(config)
            sweep_folder(config.run.out)
        world.share(None)  # the others wait until the folder is ready
        Run(config, world, stop).go()
    finally:
        if lock is not None:
            lock.release()


class Run:
    """One rank's part of a run.

    Args:
        config: of the run.
        world: this rank among the others.
        stop: the request to stop.
    """

    def __init__(self, config: TrainConfig, world: World, stop: Stop) -> None:
        self._config, self._world, self._stop = config, world, stop
        self._fingerprint = fingerprint(config)
        self._stopped = False
        self._meter = Meter()
        self._checkpoints = Checkpoints(config.run.out / CHECKPOINTS_NAME, config.run.keep)
        seed, batch = config.run.seed, config.batch
        model = build_model(config.model, seed)
        net = cast(TrainedModel, model)
        train_set, held_out = build_datasets(config.data, net.image_size, seed, world.device)
        self._image_size = net.image_size
        sizes = {net.image_size, config.data.start_size} if config.data.start_epochs else {net.image_size}
        # Before it is compiled.
        self._flops = {size: sample_flops(net, config.clicks, size) if world.first else 0.0 for size in sizes}
        self._learner = Learner(model, config, world)
        self._batches = Batches(train_set, held_out, config.data.workers, world.device)
        self._plan = Plan(len(train_set), batch.samples_per_step, batch.micro_batch, seed, world.rank, world.size)
        self._validation = Validation(
            self._learner.best_model, config.clicks.centre_share, batch.micro_batch, self._learner.autocast
        )
        self._counters = self._resume()
        self._log = RunLog(config.run.out / LOG_NAME, self._counters) if world.first else None

    def go(self) -> None:
        """Train to the last epoch, or until it is stopped."""
        with deaths_told():
            try:
                self._go()
            finally:
                self._batches.close()
                if self._log is not None:
                    self._log.close()

    def _go(self) -> None:
        counters, run = self._counters, self._config.run
        self._tell(
            "start",
            epoch=counters.epoch,
            position=counters.position,
            ranks=self._world.size,
            device=self._world.device.type,
            precision=self._learner.precision,
        )
        if counters.step == 0:
            self._save()  # now, not after hours, a disk that takes no checkpoint is noticed
        while not self._stopped:
            self._validate_if_due()
            if self._stopped or counters.epoch >= run.epochs:
                break
            self._train_epoch()
        if not self._stopped and counters.validated < 0 and self._world.first:
            export(self._learner.best_model, run.out)
        self._tell_end()

    def _train_epoch(self) -> None:
        """The epoch from the position on; it ends early at a request to stop."""
        counters, run = self._counters, self._config.run
        windows = list(self._plan.windows(counters.epoch, counters.position))
        batches = self._timed(self._batches.training([part.keys for window in windows for part in window.passes]))
        self._meter.restart()
        bar = self._bar(windows)
        for window in bar:
            factor = lr_factor(self._config.optimizer, counters.epoch, counters.step)
            report = self._learner.step(window, batches, factor, self._signs)
            self._count(window, report)
            bar.set_postfix(loss=report.loss, dice=report.dice[-1])
            self._stopped = report.told[0] > 0
            if self._stopped or (run.save_every and counters.step % run.save_every == 0):
                self._save()
            if self._stopped:
                return
        counters.epoch, counters.position = counters.epoch + 1, 0
        self._save()

    def _signs(self) -> list[float]:
        """What the ranks tell each other at each step: requests to stop, and seconds of waiting for data."""
        return [float(self._stop.requested), self._meter.waited]

    def _count(self, window: Window, report: StepReport) -> None:
        """Move on by a step, tell of it, and give up if too many in a row were in vain."""
        counters = self._counters
        counters.step, counters.position = counters.step + 1, window.end
        counters.skipped += not report.updated
        counters.skipped_in_row = 0 if report.updated else counters.skipped_in_row + 1
        self._tell_step(window, report)
        if counters.skipped_in_row >= self._config.run.skip_limit:
            raise SamMed3DError(
                ErrorCode.TRAINING_DIVERGED,
                f"The loss or its gradient was not a finite number in {counters.skipped_in_row} steps in a row, "
                f"up to step {counters.step}.",
                "Go on with numerics.precision=float32; or begin another run.out with a lower optimizer.lr, from "
                f"{self._config.run.out / 'weights.safetensors'} if that is there.",
            )

    def _tell_step(self, window: Window, report: StepReport) -> None:
        seconds = self._meter.lap()
        self._tell(
            "step",
            epoch=self._counters.epoch,
            position=window.end,
            loss=report.loss,
            dice=report.dice,
            lr=max(group_lrs(self._learner.optimizer)),
            grad_norm=report.grad_norm,
            updated=report.updated,
            skipped=self._counters.skipped,
            volumes_per_s=window.size / seconds,
            waiting_share=report.told[1] / self._world.size / seconds,
            peak_memory_bytes=peak_memory(self._world.device),
            model_flops_per_s=self._flops_per_sample() * window.size / seconds,
        )

    def _flops_per_sample(self) -> float:
        """Of the crops that are learned from now."""
        data = self._config.data
        return self._flops[data.start_size if self._counters.epoch < data.start_epochs else self._image_size]

    def _validate_if_due(self) -> None:
        """Validate before the first epoch, after the last, and every so many between, unless that is done already."""
        counters, run = self._counters, self._config.run
        due = run.validate_every and (counters.epoch % run.validate_every == 0 or counters.epoch == run.epochs)
        if not due or not self._batches.held_out or counters.position or counters.validated == counters.epoch:
            return
        start = time.perf_counter()
        dice = self._validation(self._batches, self._world, lambda: self._stop.requested)
        if dice is None:
            self._stopped = True
            return
        counters.validated = counters.epoch
        best = counters.best is None or score(dice) > counters.best
        if best:
            counters.best, counters.best_step = score(dice), counters.step
        if self._world.first:
            # Whatever of this a kill prevents is done again, for only the last line says that it is done.
            if best:
                export(self._learner.best_model, run.out)
                self._checkpoints.mark_best(counters.step)
            values = {str(clicks): value for clicks, value in dice.items()}
            seconds = time.perf_counter() - start
            self._tell("validation", epoch=counters.epoch, dice=values, score=score(dice), best=best, seconds=seconds)
            self._plot()  # now and then, for whoever looks at a long run
        self._save()

    def _plot(self) -> None:
        folder = self._config.run.out
        try:
            plot_run(folder / LOG_NAME, folder / "plot.png")
        except SamMed3DError as error:
            if error.code is not ErrorCode.DEPENDENCY_MISSING:
                raise
            self._tell("note", text=str(error))

    def _save(self) -> None:
        if self._world.first:
            state = {
                "config": self._fingerprint,
                "counters": self._counters.to_dict(),
                "learner": self._learner.state_dict(),
            }
            self._checkpoints.save(state, self._counters.step)

    def _resume(self) -> Counters:
        """Load the newest checkpoint; every rank does, and all must see the same one."""
        with warnings.catch_warnings():
            if not self._world.first:
                warnings.simplefilter("ignore", SamMed3DWarning)  # once is enough
            state = self._checkpoints.load_newest()
        counters = Counters() if state is None else Counters(**state["counters"])
        step = self._world.share(counters.step)
        if step != counters.step:
            raise SamMed3DError(
                ErrorCode.RUN_STATE,
                f"Rank {self._world.rank} finds a checkpoint of step {counters.step} in {self._config.run.out}, "
                f"the first rank one of step {step}.",
                "Let run.out be a folder that all machines share.",
            )
        if state is not None:
            self._check_own(state)
            self._learner.load_state_dict(state["learner"])
        return counters

    def _check_own(self, state: dict[str, Any]) -> None:
        if state["config"] != self._fingerprint:
            raise SamMed3DError(
                ErrorCode.RUN_STATE,
                f"The checkpoints in {self._config.run.out} are of another configuration, or of other data: prepared "
                "anew since, or with other label maps.",
                "Choose another run.out, or train with what they were saved with.",
            )

    def _timed(self, batches: Iterator[Sample]) -> Iterator[Sample]:
        """The batches, the time spent on getting them measured."""
        while True:
            with self._meter.waiting():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _bar(self, windows: Iterable[Window]) -> "tqdm[Window]":
        name = f"epoch {self._counters.epoch + 1} of {self._config.run.epochs}"
        return tqdm(windows, desc=name, unit="step", leave=False, disable=None if self._world.first else True)

    def _tell_end(self) -> None:
        counters, out = self._counters, self._config.run.out
        best = f", best Dice {counters.best:.3f} at step {counters.best_step}" if counters.best is not None else ""
        done = f"{counters.epoch} epochs, {counters.step} steps{best}"
        if self._stopped:
            text = f"stopped and saved after {done}; the same command goes on from there"
        else:
            text = f"complete after {done}; the weights are in {out / 'weights.safetensors'}"
        self._tell("note", text=text)
        if self._world.first:
            self._plot()
            print(f"{out}: {text}")

    def _tell(self, kind: str, **values: Any) -> None:
        if self._log is not None:
            if kind == "validation":  # once in a while, so that a long run is seen to live
                dice = ", ".join(f"{value:.3f} after {clicks}" for clicks, value in values["dice"].items())
                print(f"epoch {values['epoch']} of {self._config.run.epochs}: Dice {dice} clicks", flush=True)
            self._log.write(kind, self._counters.step, **values)
