"""The code in the documents runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]
CODE = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
WITH_CODE = [page for page in PAGES if CODE.search((ROOT / page).read_text())]


def test_the_pages_that_show_the_library_have_code():
    shown = {"README.md", "docs/bring_your_own_model.md", "docs/concepts.md", "docs/estimators.md", "docs/add_an_estimator.md"}
    assert shown <= set(WITH_CODE)


@pytest.mark.parametrize("name", WITH_CODE)
def test_code_blocks_run_in_order(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in CODE.findall((ROOT / name).read_text()):
        exec(compile(block, name, "exec"), names)
