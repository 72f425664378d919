"""The id under which W&B shows a run."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

from analysis.reporting.wandb_mirror import run_id


def test_all_who_ask_for_the_id_of_a_run_get_the_same(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: run_id(tmp_path, "my run"), range(64)))
    assert len(found) == 1
    assert re.fullmatch(r"my-run-[0-9a-f]{8}", found.pop())
    assert [path.name for path in tmp_path.iterdir()] == ["wandb-id"]
