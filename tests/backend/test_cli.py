"""How a command ends."""

import argparse

import pytest

from backend.cli import exit_status
from backend.errors import ErrorCode, SamMed3DError


def stop(_options: argparse.Namespace) -> None:
    raise KeyboardInterrupt


def refuse(_options: argparse.Namespace) -> None:
    raise SamMed3DError(ErrorCode.CONFIG_INVALID, "It is 3.", "Give 4.")


@pytest.mark.parametrize(
    ("run", "status", "said"), [(stop, 130, "stopped\n"), (refuse, 2, "error: It is 3. Give 4. [config.invalid]\n")]
)
def test_a_command_ends_in_a_line_and_a_status(
    capsys: pytest.CaptureFixture[str], run: object, status: int, said: str
) -> None:
    assert exit_status(run, argparse.Namespace()) == status
    assert capsys.readouterr().err == said
