import os

import pandas as pd
import pytest

from pricer.errors import PricerError
from pricer.files import (
    LARGEST_JSON,
    read_json,
    read_parquet,
    read_parquet_parts,
    write_parquet,
    write_parquet_parts,
)

TABLE = pd.DataFrame({"id": range(10), "text": [f"text {n}" for n in range(10)], "price": 0.5})


def test_one_part_gives_the_bytes_of_the_whole(tmp_path):
    write_parquet(tmp_path / "whole.parquet", TABLE)
    write_parquet_parts(tmp_path / "part.parquet", iter([TABLE]))
    whole = (tmp_path / "whole.parquet").read_bytes()
    assert (tmp_path / "part.parquet").read_bytes() == whole


def test_parts_are_the_table_and_are_read_in_parts(tmp_path):
    file = tmp_path / "parts.parquet"
    write_parquet_parts(file, (TABLE.iloc[start : start + 4] for start in (0, 4, 8)))
    pd.testing.assert_frame_equal(read_parquet(file), TABLE)
    found = list(read_parquet_parts(file, ["id", "text"], rows=3))
    assert all(len(part) <= 3 for part in found)
    pd.testing.assert_frame_equal(pd.concat(found, ignore_index=True), TABLE[["id", "text"]])


def test_a_changed_byte_is_no_other_table(tmp_path):
    file = tmp_path / "table.parquet"
    write_parquet(file, TABLE)
    sound = file.read_bytes()
    for place in range(0, len(sound), 2):
        changed = bytearray(sound)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            read = read_parquet(file)
        except PricerError as error:
            assert str(error).startswith(f"{file}: not a readable Parquet file, or damaged (")
            continue
        assert read.equals(TABLE), place


def test_a_part_that_fails_leaves_nothing(tmp_path):
    def parts():
        yield TABLE
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_parquet_parts(tmp_path / "parts.parquet", parts())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Expecting value"),
        (b"\xff", "can't decode"),
        (b"[" * 100_000, "nested too deep"),
        (b"7" * 5000, "integer string"),
    ],
)
def test_damaged_json_says_what_is_wrong(tmp_path, content, says):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_json(tmp_path / "a.json")


def test_json_that_does_not_end_is_not_read(tmp_path):
    (tmp_path / "a.json").touch()
    os.truncate(tmp_path / "a.json", LARGEST_JSON + 1)
    with pytest.raises(ValueError, match="67,108,865 bytes, at most 67,108,864 are read"):
        read_json(tmp_path / "a.json")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="no regular file"):
        read_json(tmp_path / "pipe.json")
