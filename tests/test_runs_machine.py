"""What a container leaves of the machine, by files as the kernel writes them."""

from pathlib import Path

import pytest

from runs import machine


@pytest.mark.parametrize(
    ("folder", "limit", "used", "cached"),
    [
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
    ids=["v2", "v1"],
)
def test_a_containers_limit_counts_but_not_what_files_take(
    folder: str, limit: str, used: str, cached: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    files = {limit: "1000", used: "700", "memory.stat": f"anon 500\n{cached} 200"}
    for name, text in files.items():
        (tmp_path / folder / name).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.available_memory() == 1000 - 700 + 200
    (tmp_path / folder / limit).write_text("max\n" if limit == "memory.max" else str(2**63 - 4096))
    without = machine.available_memory()  # what /proc/meminfo says
    assert 1e8 < without < 1e13
