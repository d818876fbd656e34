"""The configuration: what is shipped, what is overridden, what is refused."""

from pathlib import Path

import pytest

import backend
from backend.errors import ErrorCode, SamMed3DError
from backend.training.config import DataSection, Section, load_config, read_toml_config

CONFIGS = Path(backend.__file__).parent / "configs"
SHIPPED = {path.name for path in CONFIGS.glob("*.toml")} - {"transfer.toml"}  # see test_transfer.py
MINIMAL = '[data]\nsource = "synthetic"\nsamples_per_epoch = 4\n'
NEEDED = {"pretrain.toml": ["data.path=prepared"], "turbo.toml": ["data.path=prepared", "model.weights=weights.pth"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(SamMed3DError) as caught:
        load_config(path, overrides)
    assert caught.value.code is ErrorCode.CONFIG_INVALID
    return caught.value.problem


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_files_load_by_bare_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(Path(name), NEEDED.get(name, [])).run.out == Path("runs", name.removesuffix(".toml"))


def test_the_three_of_the_issue_are_shipped() -> None:
    assert {"pretrain.toml", "turbo.toml", "smoke.toml", "compact.toml"} <= SHIPPED


@pytest.mark.parametrize("name", NEEDED)
def test_shipped_files_say_what_must_be_given(name: str) -> None:
    assert "needs data.path" in refusal(Path(name))


def test_first_stage_is_that_of_the_supplement() -> None:
    config = load_config(Path("pretrain.toml"), NEEDED["pretrain.toml"])
    assert (config.run.epochs, config.optimizer.cycle, config.optimizer.milestones) == (800, 200, (120, 160, 190))
    assert (config.optimizer.lr, config.optimizer.factor, config.optimizer.prompt_decoder_scale) == (8e-4, 0.1, 0.1)
    assert (config.optimizer.weight_decay, config.clicks.interactions, config.data.flips) == (0.1, 11, True)
    assert (config.batch.samples_per_step, config.batch.micro_batch) == (12 * 20, 6)
    assert (config.data.stage, config.model.start) == ("pretrain", "scratch")


def test_second_stage_starts_from_weights() -> None:
    config = load_config(Path("turbo.toml"), NEEDED["turbo.toml"])
    assert (config.run.epochs, config.data.stage, config.model.start) == (200, "finetune", "weights")


def test_a_file_here_comes_before_a_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pretrain.toml").write_text(MINIMAL)
    assert load_config(Path("pretrain.toml")).data.source == "synthetic"


def test_overrides_are_toml_values_or_text(file: Path) -> None:
    words = [
        "optimizer.lr=1e-4",
        "run.out=runs/a b",
        "optimizer.milestones=[1, 2]",
        "model.sizes.depth=2",
        "run.seed = 7",
    ]
    config = load_config(file, words)
    assert (config.optimizer.lr, config.run.out, config.optimizer.milestones) == (1e-4, Path("runs/a b"), (1, 2))
    assert (config.model.sizes, config.run.seed) == ({"depth": 2}, 7)


def test_resolved_configuration_reads_back(file: Path, tmp_path: Path) -> None:
    config = load_config(file, ["model.sizes.global_blocks=[1]", "optimizer.clip_norm=2", "numerics.compile=true"])
    saved = tmp_path / "config.json"
    saved.write_text(config.model_dump_json(indent=2))
    assert load_config(saved) == config


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run.epoch=3"], "run.epoch = 3: unknown key"),
        (["optimiser.lr=1"], "optimiser: unknown key"),
        (["optimizer.lr=-1.0"], "optimizer.lr = -1.0: Input should be greater than 0"),
        (["optimizer.lr=nan"], "optimizer.lr = nan: Input should be a finite number"),
        (["optimizer.lr=inf"], "optimizer.lr = inf: Input should be a finite number"),
        (["optimizer.lr=fast"], "optimizer.lr = 'fast': Input should be a valid number"),
        (["run.epochs=true"], "run.epochs = True: Input should be a valid integer"),
        (["run.epochs='5'"], "run.epochs = '5': Input should be a valid integer"),
        (["run.epochs=0"], "run.epochs = 0: Input should be greater than 0"),
        (["batch=3"], "batch = 3: Input should be an object"),
        (["data.source=index"], 'data: source = "index" needs data.path'),
        (["data.path=x"], 'data: source = "synthetic" takes no data.path'),
        (["model.start=weights"], 'model: start = "weights" needs model.weights'),
        (["model.weights=x"], 'model: start = "scratch" takes no model.weights'),
        (["optimizer.milestones=[500]"], "optimizer: milestones (500,) must rise within the cycle of 200 epochs"),
        (["clicks.interactions=2"], "clicks: mask_only 2 leaves no click of 2 interactions"),
        (["data.variants=2", "data.start_epochs=3"], "variants repeat the first epochs"),
        (["run.seed=-1", "run.keep=0"], "run.seed = -1: Input should be greater than or equal to 0; run.keep = 0:"),
    ],
)
def test_refused_by_name_and_value(words: list[str], told: str, file: Path) -> None:
    assert told in refusal(file, *words)


def test_the_home_folder_is_meant_by_its_sign(file: Path) -> None:
    config = load_config(file, ["run.out=~/runs/a", 'data.labels=["~/maps"]'])
    assert config.run.out == Path.home() / "runs" / "a"
    assert config.data.labels == (Path.home() / "maps",)


def test_none_can_be_said(file: Path) -> None:
    file.write_text(f'{MINIMAL}[optimizer]\nema_decay = "none"\n')
    config = load_config(file, ["optimizer.clip_norm=none"])
    assert (config.optimizer.clip_norm, config.optimizer.ema_decay) == (None, None)
    assert "run.epochs = None" in refusal(file, "run.epochs=none")


@pytest.mark.parametrize("word", ["stage=pretrain", "crop=resize", "jitter=3", "flips=false"])
def test_what_would_have_no_effect_is_refused(word: str, file: Path) -> None:
    assert f'{word.partition("=")[0]} is not for source = "synthetic"' in refusal(file, f"data.{word}")
    file.write_text('[data]\npath = "x"\n')
    assert load_config(file, [f"data.{word}"]).data.source == "index"
    assert 'start_epochs is not for source = "index"' in refusal(file, "data.start_epochs=3")
    assert 'labels is not for source = "index"' in refusal(file, 'data.labels=["x"]')


@pytest.mark.parametrize("word", ["run.seed", "=3", "run.=3", "run.seed.low=3"])
def test_words_that_set_no_key_are_refused(word: str, file: Path) -> None:
    assert repr(word) in refusal(file, "run.seed=1", word)


@pytest.mark.parametrize(("name", "text"), [("a.toml", "[run\n"), ("a.json", "{"), ("a.json", "[1]")])
def test_files_in_no_format_are_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert str(tmp_path / name) in refusal(tmp_path / name)


def test_missing_file_names_the_shipped_ones(tmp_path: Path) -> None:
    for path in (Path("pretrian.toml"), tmp_path / "pretrain.toml"):
        with pytest.raises(SamMed3DError) as caught:
            load_config(path)
        assert caught.value.code is ErrorCode.FILE_MISSING
        assert str(path) in caught.value.problem
        assert "pretrain.toml" in caught.value.remedy


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "a.toml", tmp_path):
        with pytest.raises(SamMed3DError) as caught:
            load_config(path)
        assert caught.value.code is ErrorCode.FILE_READ


def test_other_models_are_read_the_same_way(tmp_path: Path) -> None:
    class Other(Section):
        data: DataSection
        share: float = 0.5

    (tmp_path / "a.toml").write_text(f"share = 1\n{MINIMAL}")
    assert read_toml_config(Other, tmp_path / "a.toml", ["data.workers=2"]).data.workers == 2
