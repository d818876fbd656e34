import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backend.data.store import StoredArray, stored_type, write_array
from backend.errors import ErrorCode, SamMed3DError


def noise(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 900, shape).astype(np.int16)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = noise((70, 65, 30))
    write_array(tmp_path / "a.b2nd", values)
    stored = StoredArray(tmp_path / "a.b2nd")
    assert stored.shape == values.shape
    assert stored.dtype == values.dtype
    np.testing.assert_array_equal(stored[:, :, :], values)
    np.testing.assert_array_equal(stored[60:69, 3:65, 29:30], values[60:69, 3:65, 29:30])
    assert stored[5:5, :, :].shape == (0, 65, 30)


def test_a_small_box_of_a_large_mask_is_small(tmp_path: Path) -> None:
    box = np.ones((10, 11, 12), dtype=np.uint8)
    write_array(tmp_path / "m.b2nd", box, (300, 300, 300), (100, 120, 70))
    stored = StoredArray(tmp_path / "m.b2nd")
    assert stored[:, :, :].sum() == box.size
    assert stored[100:110, 120:131, 70:82].all()
    assert (tmp_path / "m.b2nd").stat().st_size < 5000
    write_array(tmp_path / "empty.b2nd", np.zeros((70, 70, 70), dtype=np.uint8))
    assert not StoredArray(tmp_path / "empty.b2nd")[:, :, :].any()


def test_a_window_is_read_without_the_rest(tmp_path: Path) -> None:
    """The chunks of a file are damaged one after the other: a window notices its own and no others."""
    path = tmp_path / "a.b2nd"
    write_array(path, noise((256, 256, 256)))
    window = (slice(0, 128), slice(64, 192), slice(100, 228))
    stored = StoredArray(path)
    expected = stored[window]
    compressed = {chunk: stored._array.schunk.get_chunk(chunk) for chunk in (0, 4, 5, 21, 22, 63)}
    good = path.read_bytes()
    # In a grid of 4x4x4 chunks the window touches 0 to 1, 1 to 2 and 1 to 3 along the axes: of these here
    # 5 (0, 1, 1), 21 (1, 1, 1) and 22 (1, 1, 2), but not 0 (0, 0, 0), 4 (0, 1, 0) and 63 (3, 3, 3).
    for chunk, content in compressed.items():
        bad = bytearray(good)
        bad[good.index(content) + len(content) // 2] ^= 1
        path.write_bytes(bad)
        if chunk in (5, 21, 22):
            with pytest.raises(SamMed3DError, match=f"chunk {chunk} ") as caught:
                StoredArray(path)[window]
            assert caught.value.code == ErrorCode.DATA_CORRUPT
        else:
            np.testing.assert_array_equal(StoredArray(path)[window], expected)


def test_what_may_not_be_read_is_not_taken_for_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.b2nd").mkdir()
    with pytest.raises(SamMed3DError, match="could not be read") as caught:
        StoredArray(tmp_path / "a.b2nd")
    assert caught.value.code is ErrorCode.FILE_READ
    with pytest.raises(SamMed3DError, match="missing or damaged") as caught:
        StoredArray(tmp_path / "b.b2nd")
    assert caught.value.code is ErrorCode.DATA_CORRUPT


def test_no_flip_and_no_cut_is_silent(tmp_path: Path) -> None:
    """In a child, so that a crash of the library would be seen, with little memory, so that a lie would be."""
    code = f"""
import resource, sys
import numpy as np
from pathlib import Path
from backend.data.store import StoredArray, write_array
from backend.errors import ErrorCode, SamMed3DError
StoredArray  # loaded before memory is limited
path = Path({str(tmp_path)!r}) / "a.b2nd"
rng = np.random.default_rng(0)
values = rng.integers(-900, 900, (70, 66, 30)).astype(np.int16)
write_array(path, values)
good = path.read_bytes()
found = 0
for trial in range(300):
    bad = bytearray(good)
    ends = ((0, 300), (len(good) - 600, len(good)), (0, len(good)))  # header, trailer, anywhere
    at = int(rng.integers(*ends[trial % 3]))
    if trial % 10 == 9:
        del bad[at:]
    else:
        bad[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(bad)
    try:
        read = StoredArray(path)[:, :, :]
        assert read.dtype == values.dtype and np.array_equal(read, values), (trial, at)
    except SamMed3DError as error:
        assert error.code == ErrorCode.DATA_CORRUPT and str(path) in error.problem
        found += 1
print(found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


def test_what_is_no_stored_array_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.b2nd").write_text("hello")
    for name in ("text.b2nd", "absent.b2nd"):
        with pytest.raises(SamMed3DError, match=name) as caught:
            StoredArray(tmp_path / name)
        assert caught.value.code == ErrorCode.DATA_CORRUPT


def test_images_are_stored_as_int16_where_that_loses_nothing() -> None:
    assert stored_type(np.array([-1024.0, 3000.0], dtype=np.float32)).dtype == np.int16
    for lossy in ([0.5, 1.0], [40000.0], [np.nan, 1.0], [np.inf], [-32769.0]):
        kept = stored_type(np.array(lossy, dtype=np.float32))
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(kept, np.float32(lossy))


def test_without_blosc2_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "blosc2", None)
    with pytest.raises(SamMed3DError, match=r"napari-samed3d\[train\]") as caught:
        write_array(tmp_path / "a.b2nd", noise((4, 4, 4)))
    assert caught.value.code == ErrorCode.DEPENDENCY_MISSING
