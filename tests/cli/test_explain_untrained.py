"""The first answer: `expctr explain` without a config."""

import json

import pytest

from expctr.cli.explain_untrained import explain_untrained, main, needs_no_config
from expctr.errors import UserError


def test_a_config_or_a_user_needs_the_whole_command_line() -> None:
    assert needs_no_config(["--liked", "Heat", "--target", "Seven", "--json"])
    assert needs_no_config(["--liked=[bold]Heat", "--target=Seven"])
    assert needs_no_config([])  # and is refused in one line
    for option in ("--config=quickstart", "--user=42", "--help", "-h", "--ckpt_path=last", "--model=ExpCTRModule"):
        assert not needs_no_config(["--target", "Seven", option])


def test_an_answer_is_marked_as_untrained(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--liked", "Heat|Fargo", "--disliked", "Casper", "--target", "Seven", "--json", "true"])
    found = json.loads(capsys.readouterr().out)
    assert found["trained"] is False
    assert found["notes"][0].startswith("untrained: ")
    assert [(entry["title"], entry["liked"]) for entry in found["history"]] == [
        ("Heat", True),
        ("Fargo", True),
        ("Casper", False),
    ]
    assert found["explanation"].endswith(".")
    assert 0 < found["s_u"] < 1
    assert found["s_r"] is None
    main(["--liked", '["Heat", "Fargo"]', "--disliked", "Casper", "--target", "Seven"])
    shown = capsys.readouterr().out
    assert "untrained" in shown
    assert f"{found['s_u']:.3f}" in shown


def test_a_change_of_one_title_is_the_difference_of_two_answers() -> None:
    found = explain_untrained("Seven", ["Heat", "Fargo"], ["Casper"])
    without = explain_untrained("Seven", ["Heat", "Fargo"], [])
    assert found["history"][2]["explanation"] == without["explanation"]
    assert found["history"][2]["change"] == pytest.approx(found["s_u"] - without["s_u"], abs=1e-6)


@pytest.mark.parametrize(("target", "liked"), [("", ["Heat"]), ("NULL", ["Heat"]), ("Seven", [])])
def test_nothing_to_explain_is_refused(target: str, liked: list[str]) -> None:
    with pytest.raises(UserError, match="nothing to explain: give a title as --target"):
        explain_untrained(target, liked, [])


@pytest.mark.parametrize(
    "args", [["--target"], ["--json", "maybe"], ["Heat"], [], ["--target=Up", "--liked=NULL"], ['--liked=["Heat", ']]
)
def test_a_wrong_option_is_refused_on_one_line(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
