"""A file that was changed is never read as if it were whole."""

import json
import logging

import numpy as np
import pytest

from kdiff_jax import sealed
from kdiff_jax.errors import CheckpointError

TREE = {
    "name": "eps",
    "image_shape": (8, 8, 1),
    "sampler": {"num_steps": 4, "eta": 0.125, "clip": False, "spacing": None},
    "big": 10**18,
}
PLAIN = json.loads(json.dumps(TREE))


def read(path):
    return sealed.read_json(path, error=CheckpointError, way_out="make it again")


def test_json_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "spec.json"
    sealed.write_json(path, TREE)
    assert read(path) == PLAIN
    # Whoever writes the same in another layout has changed nothing.
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True))
    assert read(path) == PLAIN


def test_no_flipped_bit_of_json_is_read_as_something_else(tmp_path):
    path = tmp_path / "spec.json"
    sealed.write_json(path, TREE, indent=None)
    blob, found = path.read_bytes(), 0
    for place in range(len(blob)):
        for bit in range(8):
            flipped = bytearray(blob)
            flipped[place] ^= 1 << bit
            try:
                assert sealed.parse(bytes(flipped)) == PLAIN
            except sealed.Damaged:
                found += 1
    assert found > 7.9 * len(blob)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"a"', "[" * 10**5, '{"a": NaN}', '{"a": 1e999}']
    + [b"\xff\xfe", '{"a": ' + "1" * 5000 + "}"],
    ids=str,
)
def test_what_is_no_record_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "done.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(
        CheckpointError, match="is damaged .*; make it again$"
    ) as raised:
        read(path)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400
    path.unlink()
    with pytest.raises(CheckpointError, match="done.json: is missing; make it again"):
        read(path)


def test_a_change_by_hand_is_refused(tmp_path):
    path = tmp_path / "spec.json"
    sealed.write_json(path, TREE)
    path.write_text(path.read_text().replace('"eps"', '"v"'))
    with pytest.raises(CheckpointError, match="changed after it was written"):
        read(path)


def test_a_file_of_before_is_read_and_the_log_says_so_once(tmp_path, caplog):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(TREE))
    with caplog.at_level(logging.INFO, "kdiff_jax.sealed"):
        assert read(path) == read(path) == PLAIN
    assert len(caplog.records) == 1
    assert "spec.json: is of a version before" in caplog.text


def test_arrays_are_told_by_name_type_shape_and_value():
    arrays = {"mu": np.arange(6.0), "num": 3, "features": "pixels"}
    whole = sealed.seal_arrays(arrays)
    found = sealed.unseal_arrays(whole)
    assert found.keys() == arrays.keys()
    assert str(found["features"]) == "pixels" and found["num"] == 3
    changes = (
        {"mu": np.arange(6.0) + 1e-16 * np.eye(6)[0]},
        {"mu": np.arange(6.0).reshape(2, 3)},
        {"mu": np.arange(6.0).view(np.int64)},
        {"features": np.asarray("pixel")},
        {"more": np.zeros(1)},
        {"digest": np.zeros(1)},
    )
    for change in changes:
        with pytest.raises(sealed.Damaged):
            sealed.unseal_arrays({**whole, **change})
    for name in whole:  # of an entry whose name has changed, too
        other = {("x" + k if k == name else k): v for k, v in whole.items()}
        with pytest.raises(sealed.Damaged):
            sealed.unseal_arrays(other)
    plain = {name: np.asarray(value) for name, value in arrays.items()}
    assert sealed.unseal_arrays(plain).keys() == arrays.keys()  # of a version before
