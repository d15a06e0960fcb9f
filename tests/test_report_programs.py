"""The programs that make pages of finished runs."""

import pytest

from experiments import compare, report
from experiments.console import errors_shown
from tests import report_records as made


def test_report_is_made_again_from_a_run_s_files_alone(tmp_path):
    folder = made.write(tmp_path / "run", profile=())  # without figures, which take long
    before = {path.name for path in folder.iterdir()}
    page = report.main(report.Config(folder))
    assert {path.name for path in folder.iterdir()} - before == {"report.html"} == {page.name}
    first = page.read_bytes()
    report.main(report.Config(folder))
    assert page.read_bytes() == first


def test_an_error_is_one_line_without_a_traceback(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended, errors_shown(stopped=""):
        report.main(report.Config(tmp_path))
    assert ended.value.code == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_compare_writes_one_page_and_warns(tmp_path, capsys):
    folders = (made.write(tmp_path / "a"), made.write(tmp_path / "b", config=made.CONFIG | {"readout": "channel"}))
    (folders[0] / "attribution.png").write_bytes(b"no picture, and none is shown")
    page = compare.main(compare.Config(folders, tmp_path / "both.html"))
    assert "The runs differ in readout" in page.read_text()
    assert "The runs differ in readout" in capsys.readouterr().err


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path):
    folders = (made.write(tmp_path / "one" / "run"), made.write(tmp_path / "two" / "run"))
    page = compare.main(compare.Config(folders, tmp_path / "both.html")).read_text()
    assert str(folders[0]) in page and str(folders[1]) in page


def test_a_damaged_picture_is_drawn_again(tmp_path, monkeypatch):
    folder = made.write(tmp_path / "run")
    picture = (folder / "attribution.png").read_bytes()
    (folder / "attribution.png").write_bytes(picture[:20])
    monkeypatch.setattr(report, "draw", lambda out: (out / "attribution.png").write_bytes(picture))
    assert "data:image/webp" in report.main(report.Config(folder)).read_text()
