"""The whole preparation: list the sources, do what is not done yet, and write the index and the report."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend.data.cases import set_aside
from backend.data.index import INDEX_NAME, write_index
from backend.data.jobs import Job, JobResult, PreparationConfig
from backend.data.parallel import WorkerDiedError, run_on_dask, run_processes
from backend.data.planning import Declarations, plan
from backend.data.preparation import prepare_job
from backend.data.report import REPORT_NAME, Report, write_report
from backend.data.split import SplitConfig, assign_splits
from backend.errors import ErrorCode, SamMed3DError
from backend.io.atomic import leftovers
from backend.io.boundary import writing

# What a case may fail for that a later run may not find.
_OF_THE_MOMENT = {ErrorCode.FILE_READ, ErrorCode.VOLUME_TOO_LARGE}


class PipelineConfig(BaseModel):
    """Everything but the sources and the output.

    Attributes:
        preparation: what the stored files depend on.
        split: what is held out.
        declarations: what is said of the sources.
        workers: processes on this machine.
        scheduler: address of a Dask cluster to use instead.
        max_bad: share of cases that may be set aside before all stops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preparation: PreparationConfig = PreparationConfig()
    split: SplitConfig = SplitConfig()
    declarations: Declarations = Declarations()
    workers: Annotated[int, Field(gt=0)] = 1
    scheduler: str | None = None
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01


def prepare(
    sources: Sequence[Path],
    out: Path,
    config: PipelineConfig,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Report:
    """Prepare sources for training: the index, and images and masks on the canonical grid, in `out`.

    What an earlier run has finished, with the same settings and files, is kept. Cases that cannot be used are
    set aside and listed in the report, which is written even where the index is not.

    Args:
        sources: see `backend.data.sources.read_source`.
        out: a folder, made if it is not there.
        config: everything else.
        progress: told how many volumes are done, and of how many.

    Raises:
        SamMed3DError: a source or the output cannot be used, too many cases are bad, or the user stopped it;
            what is finished is kept.
    """
    _check_apart(sources, out)
    jobs, failures = plan(sources, config.declarations)
    _check_held_out(jobs, config.split)
    results: list[JobResult] = []
    stopped: SamMed3DError | None = None
    with _locked(out):
        # An index must not outlive the files that it was written for.
        (out / INDEX_NAME).unlink(missing_ok=True)
        try:
            _do(jobs, out, config, results, unlisted=len(failures), progress=progress)
        except SamMed3DError as error:
            stopped = error
        except KeyboardInterrupt:
            stopped = SamMed3DError(
                ErrorCode.CANCELLED,
                f"Stopped after {len(results)} of {len(jobs)} volumes.",
                "Run the same command again to go on from there.",
            )
        entries = assign_splits((entry for result in results for entry in result.entries), config.split)
        report = Report.of(entries, results, failures)
        write_report(out, report)
        if stopped is None and not entries:
            stopped = SamMed3DError(
                ErrorCode.DATA_SOURCE,
                f"None of {len(report.decisions)} targets of {len(jobs)} volumes was kept.",
                f"See {REPORT_NAME} in {out}, and lower the thresholds that dropped them.",
            )
        if stopped is not None:
            raise stopped
        write_index(out, entries)
    return report


def _check_apart(sources: Sequence[Path], out: Path) -> None:
    """Refuse a table that the index would take the place of."""
    for source in sources:
        if source.resolve() == (out / INDEX_NAME).resolve():
            raise SamMed3DError(
                ErrorCode.DATA_SOURCE,
                f"The source {source} is where the index would be written.",
                "Choose another folder for what is prepared.",
            )


def _check_held_out(jobs: list[Job], split: SplitConfig) -> None:
    """Refuse to hold out a dataset that is not there: a misspelt one would be trained on."""
    known = sorted({job.dataset for job in jobs})
    unknown = sorted(set(split.datasets) - set(known))
    if unknown:
        raise SamMed3DError(
            ErrorCode.CONFIG_INVALID,
            f"There is no dataset {', '.join(unknown)} to hold out.",
            f"The sources hold {', '.join(known)}.",
        )


def _do(
    jobs: list[Job],
    out: Path,
    config: PipelineConfig,
    results: list[JobResult],
    *,
    unlisted: int,
    progress: Callable[[int, int], None],
) -> None:
    """Collect the jobs' results in `results`, stopping as soon as more than the allowed share of cases is bad."""
    bad = unlisted
    total = unlisted + sum(len(job.cases) for job in jobs)
    _check_bad(bad, total, config.max_bad, out)
    for result in _results(jobs, out, config):
        results.append(result)
        bad += len(result.failures)
        progress(len(results), len(jobs))
        _check_bad(bad, total, config.max_bad, out)


def _check_bad(bad: int, total: int, limit: float, out: Path) -> None:
    if bad > limit * total:
        raise SamMed3DError(
            ErrorCode.DATA_SOURCE,
            f"{bad} of {total} cases cannot be used so far, more than {100 * limit:g} %: see {out / REPORT_NAME}.",
            "Mend or remove them, or allow more with --max-bad; "
            "then run the same command again, which keeps what is finished.",
        )


def _results(jobs: list[Job], out: Path, config: PipelineConfig) -> Iterator[JobResult]:
    """The result of each job: first of those that were finished before."""
    waiting = []
    for job in jobs:
        result = _finished(job, out, config.preparation)
        if result is None:
            waiting.append(job)
        else:
            yield result
    work = partial(prepare_job, out=out, config=config.preparation)
    if config.scheduler is not None:
        answers = run_on_dask(work, waiting, config.scheduler)
    else:
        answers = run_processes(work, waiting, min(config.workers, max(1, len(waiting))))
    for job, answer in answers:
        yield _lost(job) if isinstance(answer, WorkerDiedError) else answer


def _finished(job: Job, out: Path, config: PreparationConfig) -> JobResult | None:
    """The result of an earlier run, if it is of the same settings and sources, and its files are there.

    What failed for want of permission or memory, which no file shows to be mended, is tried again.
    """
    try:
        result = JobResult.model_validate_json(job.result_file(out).read_bytes())
    except (OSError, ValidationError):
        return None
    files = {name for entry in result.entries for name in (entry.image, entry.mask)}
    same = result.digest == job.digest(config) and all((out / name).is_file() for name in files)
    again = any(failure.code in _OF_THE_MOMENT for failure in result.failures)
    return result if same and not again else None


def _lost(job: Job) -> JobResult:
    """The result of a job whose worker died; it is not written, so that the next run tries it again."""
    error = SamMed3DError(
        ErrorCode.DATA_SOURCE,
        f"The process that prepared {job.cases[0].image} died.",
        "Free memory or use fewer workers, and run the same command again; or take a look at the file.",
    )
    return JobResult(
        digest="", failures=tuple(set_aside(case.dataset, case.name, case.label, error) for case in job.cases)
    )


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the output folder for this run, cleared of what a killed one left half written."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise SamMed3DError(
                ErrorCode.FILE_WRITE, f"Another preparation is writing to {out}.", "Wait for it, or choose another."
            ) from error
    try:
        for folder in (out, out / "cases", out / "images", *out.glob("masks/*")):
            for temporary in leftovers(folder):
                temporary.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
