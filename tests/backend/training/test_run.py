"""A run on one rank: what it leaves behind, and that being stopped, killed or misled changes nothing of it."""

import json
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch

from backend.errors import SamMed3DError
from backend.models.checkpoint import load_into, read_state_dict
from backend.training.config import load_config
from backend.training.folder import claim_folder, fingerprint, lock_folder
from backend.training.learner import Learner
from backend.training.logs import read_log
from backend.training.loop import train
from backend.training.plan import Plan
from backend.training.starts import build_model
from backend.training.state import Checkpoints, content_digest
from backend.training.stop import Stop
from backend.training.world import World

FULL: dict[str, dict[str, Any]] = {
    "run": {"validate_every": 1, "save_every": 1},
    "data": {"samples_per_epoch": 7},  # so that the last window is smaller
    "batch": {"micro_batch": 1},
    "optimizer": {"ema_decay": 0.8},
}
QUICK = FULL | {"run": {"save_every": 1}}  # validating or not, it learns the same


def state(out: Path) -> dict[str, Any]:
    loaded = Checkpoints(out / "checkpoints", keep=3).load_newest()
    assert loaded is not None
    return loaded


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fork_server: None) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    tiny_run.train(tiny_run.config(out, **FULL))
    return out


@pytest.fixture(autouse=True)
def _no_leftovers(fork_server: None) -> Iterator[None]:
    yield
    tiny_run.kill_leftovers()


def sample_at(epoch: int, place: int) -> str:
    """Which sample is at that place of an epoch, as in the file `trouble`."""
    order = Plan(length=7, samples_per_step=2, micro_batch=1, seed=0).order(epoch)
    return f"{epoch} {order[place]}"


def check_same(out: Path, finished: Path) -> None:
    assert tiny_run.losses(out) == tiny_run.losses(finished)
    assert content_digest(state(out)["learner"]) == content_digest(state(finished)["learner"])


def test_log_has_each_step_and_validation_once(finished: Path) -> None:
    lines = read_log(finished / "log.jsonl")
    steps = [line for line in lines if line["kind"] == "step"]
    assert [(line["step"], line["epoch"], line["position"]) for line in steps] == [
        *((1, 0, 2), (2, 0, 4), (3, 0, 6), (4, 0, 7)),
        *((5, 1, 2), (6, 1, 4), (7, 1, 6), (8, 1, 7)),
    ]
    for line in steps:
        assert len(line["dice"]) == 3
        assert line["updated"]
        assert all(line[name] > 0 for name in ("loss", "lr", "grad_norm", "volumes_per_s", "peak_memory_bytes"))
        assert line["model_flops_per_s"] > 0
        assert 0 <= line["waiting_share"] < 1
    validations = [line for line in lines if line["kind"] == "validation"]
    assert [(line["epoch"], line["step"]) for line in validations] == [(0, 0), (1, 4), (2, 8)]
    assert all(list(line["dice"]) == ["1", "3", "5", "10"] for line in validations)


def test_learns(tmp_path: Path) -> None:
    tiny_run.train(tiny_run.config(tmp_path / "run", run={"epochs": 12}))
    losses = tiny_run.losses(tmp_path / "run")
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])


def test_leaves_checkpoints_weights_and_a_picture(finished: Path) -> None:
    names = sorted(path.name for path in (finished / "checkpoints").iterdir())
    assert names == ["best.pth", "step-00000006.pth", "step-00000007.pth", "step-00000008.pth"]
    assert (finished / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert list((finished / "tensorboard").iterdir())
    assert json.loads((finished / "config.json").read_text())["optimizer"]["ema_decay"] == 0.8


def test_leaves_a_picture_and_the_last_weights_without_validation(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny_run.train(tiny_run.config(out))
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    learnt = state(out)["learner"]["model"]
    exported = read_state_dict(out / "weights.safetensors")
    assert exported.keys() == learnt.keys()
    assert all(torch.equal(exported[name], learnt[name]) for name in learnt)


def test_the_learning_rate_follows_its_schedule_also_after_a_stop(tmp_path: Path) -> None:
    out = tmp_path / "run"
    schedule = {"lr": 0.01, "cycle": 2, "milestones": (1,), "factor": 0.1, "warmup_steps": 4}
    for epochs in (1, 3):
        tiny_run.train(tiny_run.config(out, run={"epochs": epochs}, optimizer=schedule))
    rates = [line["lr"] for line in tiny_run.steps(out)]
    assert rates == pytest.approx([0.0025, 0.005, 0.0075, 0.01, *4 * [0.001], *4 * [0.01]])


def test_data_prepared_anew_is_not_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny_run.train(tiny_run.config(out, run={"epochs": 1}))
    (tmp_path / "map.nii.gz").write_bytes(b"another label map")
    command = tiny_run.start(tiny_run.config(out))
    assert command.wait() == 2
    assert "or of other data" in command.output()
    assert len(tiny_run.losses(out)) == 4


def test_exported_weights_are_the_best_averaged_ones(finished: Path) -> None:
    validations = [line for line in read_log(finished / "log.jsonl") if line["kind"] == "validation"]
    scores = [line["score"] for line in validations]
    assert [line["best"] for line in validations] == [score == max(scores[: n + 1]) for n, score in enumerate(scores)]
    best = state(finished)["counters"]["best_step"]
    assert best == validations[scores.index(max(scores))]["step"]
    averaged = torch.load(finished / "checkpoints" / "best.pth", weights_only=True)["state"]
    assert averaged["counters"]["step"] == best
    model = build_model(tiny_run.config(finished).model, seed=5)
    for name in ("weights.safetensors", "weights.pth"):
        load_into(model, read_state_dict(finished / name), name)
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, averaged["learner"]["ema"][f"module.{key}"])


def test_finished_run_has_nothing_left_to_do(finished: Path) -> None:
    before = tiny_run.losses(finished)
    tiny_run.train(tiny_run.config(finished, **FULL))
    assert tiny_run.losses(finished) == before


@pytest.mark.parametrize("epoch", [0, 1])
def test_killed_run_goes_on_to_the_same_end(epoch: int, tmp_path: Path, finished: Path) -> None:
    wanted = tiny_run.config(tmp_path / "run", **QUICK)
    (tmp_path / "trouble").write_text(f"kill {sample_at(epoch, 5)}")
    assert tiny_run.start(wanted).wait() == -signal.SIGKILL
    (tmp_path / "trouble").unlink()
    tiny_run.train(wanted)
    check_same(tmp_path / "run", finished)


def test_stopped_run_goes_on_to_the_same_end(tmp_path: Path, finished: Path) -> None:
    wanted = tiny_run.config(tmp_path / "run", **QUICK)
    for epoch in range(2):
        (tmp_path / "trouble").write_text(f"terminate {sample_at(epoch, 3)}")
        told = tiny_run.train(wanted)
        assert told.count("stopping: ") == told.count("stopped and saved after") == 1
        assert len(tiny_run.steps(tmp_path / "run")) == state(tmp_path / "run")["counters"]["step"] < 8
    (tmp_path / "trouble").unlink()
    tiny_run.train(wanted)
    check_same(tmp_path / "run", finished)
    for epoch in range(2):  # a step that was begun was also finished
        read = [line for line in (tmp_path / "read").read_text().splitlines() if line[0] == str(epoch)]
        assert sorted(read) == [f"{epoch} {index}" for index in range(7)]


def test_stop_in_validation_is_heeded(tmp_path: Path) -> None:
    wanted = tiny_run.config(tmp_path / "run", run={"validate_every": 1}, data={"validation_samples": 100_000})
    command = tiny_run.start(wanted)
    while not (tmp_path / "run" / "log.jsonl").exists():
        time.sleep(0.05)
    command.process.terminate()
    assert command.wait(10) == 0, command.output()
    assert [line["kind"] for line in read_log(tmp_path / "run" / "log.jsonl")] == ["start", "note"]


@pytest.mark.slow
def test_twenty_stops_at_any_time_change_nothing(tmp_path: Path) -> None:
    sections: dict[str, dict[str, Any]] = {
        "data": {"samples_per_epoch": 100},
        "batch": {"samples_per_step": 1},
        "clicks": {"interactions": 2, "mask_only": 1},
    }
    whole, stopped = (tiny_run.config(tmp_path / name / "run", **sections) for name in ("whole", "stopped"))
    whole.run.out.mkdir(parents=True)
    tiny_run.train(whole)
    stopped.run.out.mkdir(parents=True)
    for _ in range(20):
        done = tiny_run.last_step(stopped.run.out)
        command = tiny_run.start(stopped)
        while tiny_run.last_step(stopped.run.out) < done + 1 and command.process.is_alive():
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.1))
        command.process.terminate()
        start = time.monotonic()
        assert command.wait(10) == 0, command.output()
        assert time.monotonic() - start < 10
    assert 20 <= tiny_run.last_step(stopped.run.out) < 200
    tiny_run.train(stopped)
    assert tiny_run.losses(stopped.run.out) == tiny_run.losses(whole.run.out)


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damaged_newest_checkpoint_costs_one_step(damage: str, tmp_path: Path, finished: Path) -> None:
    wanted = tiny_run.config(tmp_path / "run", **QUICK)
    (tmp_path / "trouble").write_text(f"terminate {sample_at(1, 3)}")
    tiny_run.train(wanted)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*.pth"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content if damage == "flip" else content[:-100])
    (tmp_path / "trouble").unlink()
    assert f"warning: {newest} is damaged; the checkpoint before it is used." in tiny_run.train(wanted)
    check_same(tmp_path / "run", finished)


def test_folder_of_another_configuration_is_refused(finished: Path) -> None:
    before = (finished / "config.json").read_bytes()
    command = tiny_run.start(tiny_run.config(finished, **QUICK | {"optimizer": {"ema_decay": 0.8, "lr": 2e-3}}))
    assert command.wait() == 2
    assert "holds a run of another configuration: optimizer.lr was 0.01 and is 0.002." in command.output()
    assert "run.state" in command.output()
    assert (finished / "config.json").read_bytes() == before


def test_what_does_not_change_the_result_may_change(tmp_path: Path, finished: Path) -> None:
    (tmp_path / "trouble").write_text(f"terminate {sample_at(0, 3)}")
    tiny_run.train(tiny_run.config(tmp_path / "run", **QUICK))
    (tmp_path / "trouble").unlink()
    other = {"run": {"validate_every": 2, "save_every": 0, "keep": 1, "epochs": 2}, "data": QUICK["data"]}
    tiny_run.train(tiny_run.config(tmp_path / "run", **QUICK | other))
    check_same(tmp_path / "run", finished)


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "run"):
        command = tiny_run.start(tiny_run.config(tmp_path / "run"))
        assert command.wait() == 2
    assert f"Another process is training in {tmp_path / 'run'}." in command.output()


def test_nan_is_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "trouble").write_text("nan 0 3")
    tiny_run.train(tiny_run.config(tmp_path / "run"))
    lines = tiny_run.steps(tmp_path / "run")
    assert [line["updated"] for line in lines].count(False) == 1
    assert [line["loss"] is None for line in lines] == [not line["updated"] for line in lines]
    assert lines[-1]["skipped"] == 1
    assert_finite(tmp_path / "run")


def test_nan_in_every_step_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "trouble").write_text("nan always")
    command = tiny_run.start(tiny_run.config(tmp_path / "run", run={"skip_limit": 3}))
    assert command.wait() == 2
    assert "was not a finite number in 3 steps in a row, up to step 3." in command.output()
    assert "training.diverged" in command.output()
    assert_finite(tmp_path / "run")


def assert_finite(out: Path) -> None:
    learner = state(out)["learner"]
    tensors = [*learner["model"].values(), *(entry["exp_avg"] for entry in learner["optimizer"]["state"].values())]
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize(
    "numerics",
    [{"precision": "bfloat16", "checkpointing": True}, {"precision": "float16", "deterministic": True}],
)
def test_ways_to_compute_end_alike_and_resume_to_the_bit(numerics: dict[str, Any], tmp_path: Path) -> None:
    # On a grid of 2^3 tokens, oneDNN's convolution in bfloat16 gives random gradients (seen in PyTorch 2.13).
    model = {"sizes": tiny_run.SIZES | {"patch_size": 4}}
    outs = [tmp_path / name / "run" for name in ("plain", "whole", "resumed")]
    for out in outs:
        out.mkdir(parents=True)
    tiny_run.train(tiny_run.config(outs[0], model=model))
    tiny_run.train(tiny_run.config(outs[1], numerics=numerics, model=model))
    (outs[2].parent / "trouble").write_text("terminate 0 3")
    tiny_run.train(tiny_run.config(outs[2], numerics=numerics, model=model))
    tiny_run.train(tiny_run.config(outs[2], numerics=numerics, model=model))
    assert tiny_run.losses(outs[1]) == tiny_run.losses(outs[2])
    assert tiny_run.losses(outs[1]) == pytest.approx(tiny_run.losses(outs[0]), rel=0.02)
    assert (state(outs[1])["learner"]["scaler"] != {}) == (numerics.get("precision") == "float16")


def test_frozen_encoder_is_embedded_once_and_stays(tmp_path: Path) -> None:
    sections = {"model": {"freeze": ("image_encoder",)}, "data": {"variants": 1}}
    out = tmp_path / "run"
    tiny_run.train(tiny_run.config(out, **sections))
    assert len(list((out / "embeddings").rglob("*.safetensors"))) == 8
    fresh = build_model(tiny_run.config(out, **sections).model, seed=0).state_dict()
    learnt = state(out)["learner"]["model"]
    same = {name for name in fresh if torch.equal(fresh[name], learnt[name])}
    assert {name for name in fresh if name.startswith("image_encoder.")} <= same < fresh.keys()


def test_embeddings_of_another_precision_are_not_taken(tmp_path: Path) -> None:
    sections = {"model": {"freeze": ("image_encoder",)}, "data": {"variants": 1}}
    out = tmp_path / "run"
    tiny_run.train(tiny_run.config(out, **sections, run={"epochs": 1}, numerics={"precision": "bfloat16"}))
    shutil.copytree(out, tmp_path / "without")
    shutil.rmtree(tmp_path / "without" / "embeddings")
    ends = []
    for _ in range(2):
        tiny_run.train(tiny_run.config(out, **sections, numerics={"precision": "float32"}))
        ends.append(content_digest(state(out)["learner"]))
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "without", out)
    assert ends[0] == ends[1]


def test_embeddings_of_other_data_are_not_taken(tmp_path: Path) -> None:
    sections = {"model": {"freeze": ("image_encoder",)}, "data": {"variants": 1}}
    out = tmp_path / "run"
    tiny_run.train(tiny_run.config(out, **sections))
    shutil.rmtree(out / "checkpoints")  # so that the folder is free
    ends = []
    for again in (out, tmp_path / "fresh" / "run"):
        again.parent.mkdir(exist_ok=True)
        tiny_run.train(tiny_run.config(again, **sections, run={"seed": 1}))
        ends.append(content_digest(state(again)["learner"]))
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_workers_change_nothing_and_end_with_their_rank(tmp_path: Path, finished: Path) -> None:
    sections = QUICK | {"data": QUICK["data"] | {"workers": 2}}
    (tmp_path / "run").mkdir()
    (tmp_path / "trouble").write_text(f"hang {sample_at(1, 5)}")
    command = tiny_run.start(tiny_run.config(tmp_path / "run", **sections))
    while tiny_run.last_step(tmp_path / "run") < 4:
        time.sleep(0.05)
    family = command.family()
    assert len(family) >= 2
    command.process.kill()
    assert tiny_run.all_end(family, 15)
    (tmp_path / "trouble").unlink()
    tiny_run.train(tiny_run.config(tmp_path / "run", **sections))
    check_same(tmp_path / "run", finished)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "message"),
    [("corrupt", "masks/7.b2nd is damaged. Prepare it anew. [data.corrupt]"), ("kill", "A process that loads samples")],
)
def test_trouble_in_a_worker_is_told(what: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "trouble").write_text(f"{what} 0 3")
    command = tiny_run.start(tiny_run.config(tmp_path / "run", data={"workers": 1}))
    assert command.wait() == 2, command.output()
    assert message in command.output()
    assert "Traceback" not in command.output()


@pytest.mark.parametrize("told", ["DataLoader worker (pid 7) is killed by signal: Killed. ", "a defect of ours"])
def test_the_death_of_a_worker_is_told_wherever_it_is_heard_of(
    told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch raises it in the handler of a signal, which may come in the midst of a step."""

    def step(*_: Any) -> None:
        raise RuntimeError(told)

    monkeypatch.setattr(Learner, "step", step)
    expected = SamMed3DError if "worker" in told else RuntimeError
    with pytest.raises(expected, match="A process that loads samples died" if "worker" in told else told):
        train(tiny_run.config(tmp_path / "run"), World(torch.device("cpu")), Stop())


@pytest.mark.slow
def test_a_defect_of_the_data_in_a_worker_is_no_want_of_memory(tmp_path: Path) -> None:
    (tmp_path / "trouble").write_text("no-object 0 3")
    command = tiny_run.start(tiny_run.config(tmp_path / "run", data={"workers": 1}))
    assert command.wait() == 1, command.output()
    assert "seed 5 gave no object" in command.output()
    assert "data.workers" not in command.output()


@pytest.mark.slow
def test_signal_to_all_processes_still_saves(tmp_path: Path, finished: Path) -> None:
    wanted = tiny_run.config(tmp_path / "run", **QUICK | {"data": QUICK["data"] | {"workers": 1}})
    command = tiny_run.start(wanted)
    while tiny_run.last_step(tmp_path / "run") < 2:
        time.sleep(0.02)
    family = command.family()
    assert family
    for process in (command.process, *family):
        process.terminate()
    assert command.wait(10) == 0, command.output()
    tiny_run.train(wanted)
    check_same(tmp_path / "run", finished)


def test_start_that_failed_binds_no_one(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / ".0c1d2e3f-step-00000001.pth").write_bytes(b"killed while it was written")
    other = load_config(write(tmp_path, "other.toml"))
    claim_folder(other.model_copy(update={"run": other.run.model_copy(update={"out": folder, "seed": 5})}))
    claim_folder(other.model_copy(update={"run": other.run.model_copy(update={"out": folder, "seed": 6})}))
    assert load_config(folder / "config.json").run.seed == 6


def write(folder: Path, name: str) -> Path:
    (folder / name).write_text('[data]\nsource = "synthetic"\nsamples_per_epoch = 4\n')
    return folder / name


def test_data_prepared_anew_is_another_run(tmp_path: Path) -> None:
    (tmp_path / "index.jsonl").write_text("{}\n")
    (tmp_path / "a.toml").write_text(f'[data]\nsource = "index"\npath = "{tmp_path}"\n')
    config = load_config(tmp_path / "a.toml")
    before = fingerprint(config)
    assert fingerprint(config) == before
    (tmp_path / "index.jsonl").write_text("{}\n{}\n")
    assert fingerprint(config) != before


def test_the_same_data_elsewhere_is_the_same_run(tmp_path: Path) -> None:
    prints = []
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        (folder / "index.jsonl").write_text("{}\n")
        (tmp_path / "a.toml").write_text(f'[data]\nsource = "index"\npath = "{folder}"\n')
        prints.append(fingerprint(load_config(tmp_path / "a.toml")))
    assert prints[0] == prints[1]


def test_another_label_map_is_another_run(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "a.nii.gz").write_bytes(b"a")
    config = load_config(write(tmp_path, "a.toml"), [f'data.labels=["{maps}"]'])
    before = fingerprint(config)
    (maps / "notes.txt").write_text("no map")
    assert fingerprint(config) == before
    (maps / "b.nii.gz").write_bytes(b"b")
    assert fingerprint(config) != before
