"""Records written as arrays come back as they were; files appear whole or not at all."""

import numpy as np
import pytest

from ipjax import files

RECORDS = (
    {"layer": "stem", "value": 0.1, "count": 3, "sure": True, "parts": (1.0, 2.0), "note": "a"},
    {"layer": "block", "value": None, "count": None, "sure": None, "parts": None, "note": None},
    {"layer": "head", "value": -2.0, "count": -1, "sure": False, "parts": (3.0,), "note": "b"},
)


def test_records_come_back_with_their_gaps_and_types(tmp_path):
    files.save(RECORDS, tmp_path / "records.npz")
    again = files.load(tmp_path / "records.npz")
    assert again == RECORDS
    assert [{key: type(value) for key, value in record.items()} for record in again] == [
        {key: type(value) for key, value in record.items()} for record in RECORDS
    ]


def test_no_records_come_back_as_none(tmp_path):
    files.save((), tmp_path / "records.npz")
    assert files.load(tmp_path / "records.npz") == ()


def test_a_key_that_some_records_lack_is_none(tmp_path):
    files.save(({"layer": "a"}, {"layer": "b", "count": 2}), tmp_path / "records.npz")
    assert files.load(tmp_path / "records.npz") == ({"layer": "a", "count": None}, {"layer": "b", "count": 2})


def test_a_table_has_a_row_a_record_and_leaves_out_subsamples(tmp_path):
    files.to_csv(({"layer": "a", "x": 0.5, "x_subsamples": (1.0, 2.0)}, {"layer": "b", "x": None}), tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text() == "layer,x\na,0.500000\nb,\n"


def test_an_interrupted_write_leaves_the_former_file(tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(OSError, match="full"), files.replacing(tmp_path / "file") as file:
        file.write(b"half")
        raise OSError("full")
    assert (tmp_path / "file").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_arrays_of_numpy_types_are_written_as_numbers(tmp_path):
    files.save(({"a": np.int32(2), "b": np.bool_(True)}, {"a": None, "b": None}), tmp_path / "records.npz")
    assert files.load(tmp_path / "records.npz") == ({"a": 2, "b": True}, {"a": None, "b": None})


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder .*nowhere to write records\.npz into"):
        files.save(RECORDS, tmp_path / "nowhere" / "records.npz")
