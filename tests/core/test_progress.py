"""What is said of a stage's progress, on a clock of the test's own."""

import re

import pytest

from flows.stage.process import PROGRESS
from tasks.runner import progress
from tasks.runner.progress import Progress, clock, format_metrics, format_short


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    monkeypatch.delenv("TOKENMILL_PROGRESS", raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    return made


def said(capsys: pytest.CaptureFixture, ticking: Clock, seconds: float, total: int, **shown: float) -> list[str]:
    """The lines about `total` steps that take `seconds` in all (eighths add up exactly)."""
    shower = Progress("pretrain")
    for done in range(total + 1):
        shower.show(done, total, "step", shown)
        ticking.now += seconds / total
    shower.close()
    return capsys.readouterr().out.splitlines()


def test_a_line_at_the_start_every_five_seconds_and_at_the_end(capsys, ticking) -> None:
    lines = said(capsys, ticking, 12.0, 96, tokens_per_second=11234.5)
    assert lines == [
        "pretrain 8/96 step 8% 11.2k tok/s eta 0:11",
        "pretrain 48/96 step 50% 11.2k tok/s eta 0:06",
        "pretrain 88/96 step 92% 11.2k tok/s eta 0:01",
        "pretrain 96/96 step 100% 11.2k tok/s eta 0:00",
    ]


def test_nothing_of_what_ends_within_a_second(capsys, ticking) -> None:
    assert said(capsys, ticking, 0.9, 50) == []


def test_the_flow_gets_lines_it_can_read_twice_a_second(capsys, ticking, monkeypatch) -> None:
    monkeypatch.setenv("TOKENMILL_PROGRESS", "lines")
    lines = said(capsys, ticking, 10.0, 1000, loss=2.0)
    found = [PROGRESS.fullmatch(line) for line in lines]
    assert all(found) and 17 <= len(found) <= 20
    assert [m.groups() for m in found][-1] == ("pretrain", "1000", "1000", "step", "0", "loss 2")


def test_a_total_that_was_too_small_is_no_trouble(capsys, ticking, monkeypatch) -> None:
    monkeypatch.setenv("TOKENMILL_PROGRESS", "lines")
    shower = Progress("ingest")
    shower.show(0, 0, "byte", {})
    ticking.now += 2
    shower.show(7, 0, "byte", {})
    assert capsys.readouterr().out == "progress ingest 7 7 byte eta=0\n"


def test_a_second_loop_has_an_eta_of_its_own(capsys, ticking) -> None:
    shower = Progress("dedup")
    for unit, seconds in (("document", 4.0), ("band", 1.0)):
        for done in range(3):
            shower.show(done, 4, unit, {})
            ticking.now += seconds
    etas = [re.search(r"(\w+) \d+% eta (\S+)", line).groups() for line in capsys.readouterr().out.splitlines()]
    assert ("document", "0:12") in etas and ("band", "0:02") not in etas[:1]


def test_a_bar_on_a_terminal(capsys, ticking, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    shower = Progress("rl")
    for done in (0, 50, 100):
        shower.show(done, 100, "step", {"reward": 0.5})
        ticking.now += 2
    shower.close()
    out, err = capsys.readouterr()
    assert out == "" and "rl" in err and "100/100" in err and "reward 0.5" in err


def test_numbers_for_people() -> None:
    assert [format_short(v) for v in (0, 0.01234, 4.561, 999.4, 999.6, 11234, 3.4e6)] == [
        "0",
        "0.0123",
        "4.56",
        "999",
        "1k",
        "11.2k",
        "3.4M",
    ]
    assert [clock(s) for s in (0, 35.4, 65, 3661)] == ["0:00", "0:35", "1:05", "1:01:01"]
    assert format_metrics({"tokens_per_second": 2e3, "loss": 1.5}) == "2k tok/s loss 1.5"
