"""Users meet one line and an exit code; programmers meet their traceback."""

import os
import pickle
import subprocess
import sys

import pytest

from cityseg.errors import InputError, TrainingError, counted, first_of, user_command


def test_the_message_gives_what_got_expected_and_remedy_in_that_order():
    error = InputError("fold", got=7, expected="1 to 3", remedy="count from 1")
    assert str(error) == "fold: got 7, expected 1 to 3; count from 1"
    assert str(InputError("fold", got=0)) == "fold: got 0"
    assert str(InputError("no folder x")) == "no folder x"


def test_the_message_stays_one_line_whatever_a_library_said():
    assert str(InputError("x.npz", got="bad\n  zip\r\nfile")) == "x.npz: got bad zip file"


def test_an_error_crosses_a_process_border_unchanged():
    for error in (InputError("fold", got=7, remedy="count from 1"), TrainingError("loss is nan")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (InputError("fold", got=7), 2, "error: fold: got 7\n"),
        (TrainingError("loss is nan"), 1, "failed: loss is nan\n"),
    ],
)
def test_a_command_ends_with_one_line_and_its_code(raised, code, line, capsys):
    @user_command
    def command() -> int:
        raise raised

    assert command() == code
    assert capsys.readouterr() == ("", line)


def test_a_command_passes_its_own_exit_code_on():
    assert user_command(lambda: 5)() == 5


def test_a_programmers_mistake_keeps_its_traceback():
    @user_command
    def command() -> int:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        command()


def test_ctrl_c_ends_a_command_without_a_traceback(capsys: pytest.CaptureFixture[str]):
    @user_command
    def main() -> int:
        raise KeyboardInterrupt

    assert main() == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("characters", [10, 10**6])
def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(characters: int):
    """As `| head` does: what it prints may fit into a buffer, or not."""
    code = (
        "import sys; from cityseg.errors import user_command\n"
        f"sys.exit(user_command(lambda: print({characters} * 'x') or 0)())"
    )
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_pipe_that_is_not_the_outputs_keeps_its_traceback(capfd: pytest.CaptureFixture[str]):
    @user_command
    def command() -> int:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        command()


def test_things_are_counted_and_told_in_words():
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert [counted(n, "city", "cities") for n in (1, 3)] == ["1 city", "3 cities"]
    assert first_of([1, 2], 2) == "1; 2"
    assert first_of(["a", "b", "c"], 2, ", ") == "a, b, and 1 more"
