from io import BytesIO

import pandas as pd
import pytest

from pricer.errors import ItemsError
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


def test_a_changed_bit_is_never_read_as_another_value(tmp_path):
    """The footer has no checksum, but what it says must fit."""
    file = tmp_path / "a.parquet"
    write_parquet(file, TABLE)
    content, told = file.read_bytes(), 0
    for place in range(0, len(content), 17):
        changed = bytearray(content)
        changed[place] ^= 4
        try:
            table = read_parquet(BytesIO(changed), list(TABLE), name="a")
        except ItemsError as error:
            told += 1
            assert str(error).startswith("a: ") and "\n" not in str(error)
        else:
            assert table.astype(TABLE.dtypes).equals(TABLE)
    assert told > len(content) / 17 / 4


@pytest.mark.parametrize("write", [write_parquet, lambda file, t: write_parquet_parts(file, [t])])
def test_a_changed_byte_in_a_page_is_told(tmp_path, write):
    write(tmp_path / "a.parquet", TABLE)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content.replace(b"text 0", b"text 1"))
    with pytest.raises(ItemsError, match=r"a.parquet: not a readable Parquet file \(.*CRC"):
        read_parquet(tmp_path / "a.parquet")
    with pytest.raises(ItemsError, match=r"a.parquet: not a readable Parquet file \(.*CRC"):
        list(read_parquet_parts(tmp_path / "a.parquet", ["id", "text"], rows=3))


def test_a_file_that_lacks_a_column_is_told(tmp_path):
    write_parquet(tmp_path / "a.parquet", TABLE)
    with pytest.raises(ItemsError, match=r"a.parquet: column size missing \(has id, text, price\)"):
        read_parquet(tmp_path / "a.parquet", ["id", "size"])
    with pytest.raises(ItemsError, match="nowhere.parquet: not a readable Parquet file"):
        read_parquet(tmp_path / "nowhere.parquet")
