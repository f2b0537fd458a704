"""The GPU benchmark, on a processor with a tiny base: it measures, and what must hold holds."""

import json

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
