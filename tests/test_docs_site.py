"""Every public name has a docstring and its place in the reference; the site builds without a warning and fetches nothing."""

import ast
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlparse

import pytest

ROOT = Path(__file__).parents[1]
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", flags=re.MULTILINE)
REFERENCE = {page.name: DIRECTIVE.findall(page.read_text()) for page in sorted((ROOT / "docs/reference").glob("*.md"))}


def _modules() -> dict[str, Path]:
    """Name -> file of the modules that are to be in the reference: of the libraries all, of experiments the programs."""
    found = {}
    for package in ("ipjax", "ports", "experiments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if package != "experiments" or _is_program(path) or path.stem == "config":
                found[name] = path
    found.pop("ipjax")  # the names that it collects are in the overview
    return found


def _is_program(path: Path) -> bool:
    tests = [ast.unparse(node.test) for node in ast.parse(path.read_text()).body if isinstance(node, ast.If)]
    return "__name__ == '__main__'" in tests


def _undocumented(path: Path) -> list[str]:
    """The public functions, classes and methods without a docstring, and the module if it has none."""
    tree = ast.parse(path.read_text())
    found = [] if ast.get_docstring(tree) else ["the module itself"]

    def look(body: list[ast.stmt], inside: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    found.append(inside + node.name)
                if isinstance(node, ast.ClassDef):
                    look(node.body, f"{inside}{node.name}.")

    look(tree.body, "")
    return found


MODULES = _modules()


def test_every_module_is_in_the_reference_once():
    listed = [name for names in REFERENCE.values() for name in names]
    assert len(listed) == len(set(listed)), "a module is in the reference twice"
    missing, unknown = sorted(set(MODULES) - set(listed)), sorted(set(listed) - set(MODULES))
    assert not missing, f"add a line '::: {missing[0]}' to a page of docs/reference (missing: {', '.join(missing)})"
    assert not unknown, f"no such module: {', '.join(unknown)}"


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name):
    assert _undocumented(MODULES[name]) == []


def test_a_name_without_a_docstring_is_found(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        '"""."""\ndef told():\n    """."""\ndef untold(): ...\ndef _own(): ...\nclass C:\n    """."""\n    def m(self): ...\n'
    )
    assert _undocumented(file) == ["untold", "C.m"]


@pytest.mark.parametrize("package", ["ipjax", "ports"])
def test_every_name_that_a_package_collects_is_in_the_overview(package):
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    names = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    section = (ROOT / "docs/reference/index.md").read_text().split(f"## `import {package}`")[1].split("\n## ")[0]
    missing = sorted(names - set(re.findall(r"\[`(\w+)`\]", section)))
    assert not missing, f"add to docs/reference/index.md: {', '.join(missing)}"


def test_every_page_is_in_the_navigation():
    pages = {
        str(path.relative_to(ROOT / "docs")) for ending in ("md", "ipynb") for path in (ROOT / "docs").rglob(f"*.{ending}")
    }
    listed = set(re.findall(r"^ +- .*: (\S+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(), flags=re.MULTILINE))
    assert pages <= listed, f"add to nav in mkdocs.yml: {', '.join(sorted(pages - listed))}"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="the site is built where mkdocs is installed (extra docs)")
def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = sorted(tmp_path.rglob("*.html"))
    assert {"index.html", "concepts.html", "gallery.html", "conductance.html", "five_minute_tour.html"} <= {
        p.name for p in pages
    }
    fetched = [(page.name, url) for page in pages for url in _fetched(page.read_text())]
    assert fetched == []
    css = [
        path.name for path in tmp_path.rglob("*.css") if re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text())
    ]
    assert css == []
    reference = "".join((tmp_path / "reference" / name).with_suffix(".html").read_text() for name in REFERENCE)
    assert 'id="ipjax.conductance.layer_conductance"' in reference and 'id="ipjax.estimators.kde.KDE"' in reference


def _fetched(text: str) -> list[str]:
    """Addresses on other hosts that a page loads when it is opened: links to follow are none."""
    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            values = dict(attrs)
            urls = [values.get("src"), values.get("data")]
            if tag == "link" and values.get("rel") != "canonical":
                urls.append(values.get("href"))
            found.extend(url for url in urls if url and urlparse(url).netloc)

    Parser().feed(text)
    return found
