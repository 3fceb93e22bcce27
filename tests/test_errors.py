"""Users meet one line and an exit code; programmers meet their traceback."""

import pickle

import pytest

from cityseg.errors import InputError, TrainingError, user_command


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
