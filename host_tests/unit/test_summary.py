"""The summary of a long run: what tests recorded, how long they took, what failed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from support import summary


def report(name: str, seconds: float, **recorded: object) -> SimpleNamespace:
    """One report of a test, as pytest hands it to the summary."""
    return SimpleNamespace(
        nodeid=f"host_tests/{name}",
        duration=seconds,
        when="call",
        user_properties=list(recorded.items()),
    )


def written(tmp_path: Path, stats: dict) -> str:
    path = tmp_path / "reports" / "long-run.md"
    folders, unchecked = summary.collect(stats, long=True)
    summary.write(path, stats, folders, unchecked, 90.0)
    return path.read_text("utf-8")


def test_a_long_run_names_figures_times_and_failures(tmp_path: Path) -> None:
    cut = report("trust/test_power_cut.py::test_a", 30.0, power_cut="lfs: 812 cuts", count=1)
    soak = report("emulator/test_faults.py::test_soak[a|b]", 2.5, not_checked="soak: no valgrind")
    text = written(tmp_path, {"passed": [cut], "failed": [soak]})
    assert "| `trust/` | 1 | 30 |" in text and "| time | 1.5 min |" in text
    assert "| `trust/test_power_cut.py::test_a` | power_cut | lfs: 812 cuts |" in text
    assert "| `trust/test_power_cut.py::test_a` | count | 1 |" in text
    assert text.index("| `trust/test_power_cut.py::test_a` | 30 |") < text.index(
        "test_soak[a/b]` | 2 |"
    )
    assert "- soak: no valgrind" in text and "make test-long`" in text
    assert "full counts" not in text
    assert "- `host_tests/emulator/test_faults.py::test_soak[a|b]`" in text.split("## Failed")[1]


def test_a_run_without_figures_says_so(tmp_path: Path) -> None:
    text = written(tmp_path, {"passed": [report("unit/test_a.py::test_a", 0.1)]})
    assert "none recorded" in text and "## Failed" not in text
