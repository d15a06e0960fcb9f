"""The code in the documents runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["README.md", "docs/attribution.md", "docs/bring_your_own_model.md", "docs/estimators.md"])
def test_code_blocks_run_in_order(name):
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / name).read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    names = {}
    for block in blocks:
        exec(compile(block, name, "exec"), names)
