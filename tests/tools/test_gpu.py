"""The GPU benchmark, on a processor with a tiny base: it measures, and what must hold holds."""

import json
from pathlib import Path
from typing import Any

import pytest

from tools.bench import gpu


@pytest.mark.slow
def test_a_tiny_base_is_measured_and_every_check_holds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "TOKENS", 6)
    assert gpu.main(["--sizes", "tiny"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found["settings"]) == ["tiny, response", "tiny, all"]
    for name, setting in found["settings"].items():
        errors = setting["errors"]
        checks = {"ratio_first", "decode_error", "resume_error"}
        assert set(errors) == checks | ({"scope_error"} if "response" in name else set())
        assert errors["resume_error"] == 0
        assert set(setting["seconds"]) == {*gpu.PHASES, "all"}
        assert setting["forecast_gb"]["peak"] > 0


def test_nothing_measured_is_nothing_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--sizes", "tiny", "--minutes", "0"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["settings"], found["holds"]) == ({}, False)


def test_compiled_settings_come_after_all_others(tmp_path: Path) -> None:
    """They take longest: the time may be up before them."""
    names = [name for name, _ in gpu.settings(["tiny", "1B"], tmp_path, on_gpu=True)]
    plain = ["tiny, response", "tiny, all", "1B, response", "1B, all"]
    assert names == [*plain, *(f"{name}, compiled" for name in plain)]


def test_a_setting_that_fails_in_any_way_leaves_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(folder: Path, llm: Any, forecast: dict[str, float]) -> dict[str, Any]:
        assert llm.adapter_scope == "all", "no graph for this"
        return {"holds": True}

    monkeypatch.setattr(gpu, "measure", measure)
    assert gpu.main(["--sizes", "tiny"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["settings"]
    assert found["tiny, response"] == {"error": "AssertionError: no graph for this", "holds": False}
    assert found["tiny, all"] == {"holds": True}
