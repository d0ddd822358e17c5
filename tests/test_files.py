import pandas as pd
import pytest

from pricer.files import read_parquet, read_parquet_parts, write_parquet, write_parquet_parts

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


def test_a_part_that_fails_leaves_nothing(tmp_path):
    def parts():
        yield TABLE
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_parquet_parts(tmp_path / "parts.parquet", parts())
    assert not list(tmp_path.iterdir())
