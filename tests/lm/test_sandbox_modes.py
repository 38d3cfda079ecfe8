"""Programs of a batch come back in their order, and which way of shutting in is taken is said; how each shuts in is test_sandbox.py's."""

import pytest

from lm.config import ConfigError
from lm.sandbox import run
from lm.sandbox.run import Limits, Outcome, run_program, run_programs


def test_programs_come_back_in_their_order() -> None:
    sources = [f"import time; time.sleep({0.2 if n == 0 else 0}); print({n})" for n in range(5)]
    assert [outcome.out for outcome in run_programs(sources)] == [f"{n}\n" for n in range(5)]
    assert run_programs([]) == [] and run_program("print(1)").out == "1\n"


def test_what_is_not_defended_is_said_and_where_nothing_is_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: str, __: Limits, name: str) -> Outcome:
        return Outcome("42\n", "", 0) if name in works else Outcome("", "", None, f"no {name}")

    monkeypatch.setattr(run, "_run", fails)
    for works, said in ((["namespaces"], ""), (["bare"], "sandbox: no namespaces here (no namespaces): ")):
        run.mode.cache_clear()
        assert run.mode() == works[0]
        assert capsys.readouterr().err.startswith(said) and bool(said) == (works == ["bare"])
    works = []
    run.mode.cache_clear()
    with pytest.raises(
        ConfigError, match="cannot be shut in on this machine .namespaces: no namespaces; bare: no bare"
    ):
        run.mode()
    run.mode.cache_clear()
