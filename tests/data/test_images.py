"""Each source, on small real files; and each line of advice when one is wrong."""

import io
import pathlib
import stat
import sys
import zipfile

import numpy as np
import pytest
from image_files import PICTURES, edm_files, fails, png, write_files, write_zip
from PIL import Image
from tfds_files import prepare

from kdiff_jax.data import edm_zip, encoded
from kdiff_jax.data.batches import Batches
from kdiff_jax.data.images import TFDS_NAMES, load
from kdiff_jax.errors import DataError

# --- names and options


def test_an_unknown_name_lists_the_sets():
    error = fails(
        "data.name='cifer': unknown; choose one of digits, .*, mnist", name="cifer"
    )
    assert error.exit_code == 2
    fails("unknown; choose one of", name="tfds")
    fails("unknown; choose one of", name="npz:file")


def test_labels_can_be_left_out():
    images = load("digits", use_labels=False)
    assert images.num_classes == 0 and not images.labels.any()


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_built_in_sets_read_no_file_and_have_one_split(name):
    fails(f"data.path='x': {name} is built in", name=name, path="x")
    fails(f"data.split='test': {name} has only", name=name, split="test")
    assert load(name, path="", size=0).num  # how a config says "none"


@pytest.mark.parametrize("name", ["npz", "folder", "edm_zip"])
def test_files_must_be_named_and_must_exist(name, tmp_path):
    assert fails("data.path=None", name=name).exit_code == 2
    error = fails(
        "no such (file|folder); set data.path", name=name, path=f"{tmp_path}/x"
    )
    assert error.exit_code == 3


def test_another_source_for_a_path_is_named(tmp_path):
    """Its option works: each path is read by the source that the message names."""
    folder = write_files(tmp_path / "f", {"a.png": png(PICTURES[0])})
    archive, arrays = tmp_path / "a.zip", tmp_path / "a.npz"
    write_zip(archive, {"a.png": png(PICTURES[0])})
    np.savez(arrays, images=PICTURES)
    for path, wrong, right in [
        (folder, "npz", "folder"),
        (folder, "edm_zip", "folder"),
        (archive, "npz", "edm_zip"),
        (archive, "folder", "edm_zip"),
        (arrays, "folder", "npz"),
    ]:
        fails(f"; set data.name={right}$", name=wrong, path=str(path))
        assert load(right, path=str(path)).num


# --- digits and synthetic


def test_digits_are_scikit_learns_and_invertible():
    from sklearn.datasets import load_digits

    images = load("digits")
    grey, labels = load_digits(return_X_y=True)
    array = images.read(np.arange(1797))
    assert array.shape == (1797, 8, 8, 1) and array.dtype == np.uint8
    np.testing.assert_array_equal(np.round(array.reshape(1797, 64) * (16 / 255)), grey)
    np.testing.assert_array_equal(images.labels, labels)
    assert images.num_classes == 10 and images.in_memory is not None
    # 0, 1 and 16 of 16 levels: 255/16 = 15.94.
    assert np.unique(array)[[0, 1, -1]].tolist() == [0, 16, 255]


def test_digits_can_be_enlarged():
    """Averaged back to 8x8, each is nearest to the digit that it was made from."""
    images = load("digits", size=16)
    assert images.shape == (16, 16, 1)
    before = load("digits").in_memory[:100].reshape(100, 64) / 255
    after = images.in_memory[:100].reshape(100, 8, 2, 8, 2).mean(axis=(2, 4)) / 255
    distances = ((after.reshape(100, 1, 64) - before) ** 2).sum(axis=-1)
    np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(100))


@pytest.mark.parametrize("channels, num_classes", [(3, 10), (1, 4), (3, 0)])
def test_synthetic_images_are_functions_of_their_number(channels, num_classes):
    options = dict(size=16, channels=channels, num_classes=num_classes)
    images = load("synthetic", num_images=30, **options)
    many = load("synthetic", num_images=5_000_000, **options)
    assert many.in_memory is None
    indices = np.array([29, 3, 3, 11])
    np.testing.assert_array_equal(images.read(indices), many.read(indices))
    assert images.shape == (16, 16, channels) and images.num_classes == num_classes
    assert images.labels.max() == max(num_classes, 1) - 1
    assert len(np.unique(images.in_memory.reshape(30, -1), axis=0)) == 30
    assert np.ptp(images.in_memory) > 150


def test_wrong_synthetic_numbers_are_named():
    fails("data.channels=2: choose one of 1, 3", name="synthetic", channels=2)
    fails("data.num_images=0", name="synthetic", num_images=0)


# --- npz


@pytest.mark.parametrize(
    "keys, split",
    [
        (("images", "labels"), "train"),
        (("x", "y"), "train"),
        (("arr_0", "arr_1"), "train"),
        (("train", "train_labels"), "train"),
        (("train_images", "train_labels"), "train"),
        (("x_train", "y_train"), "train"),
        (("x_val", "y_val"), "val"),
        (("test_images", "test_labels"), "test"),
    ],
)
def test_npz_under_the_usual_names(tmp_path, keys, split):
    other = {f"x_other_{split}": PICTURES[:1], "meta": np.array("{}")}
    labels = np.array([0, 1, 2, 0, 1, 3], np.uint8)
    np.savez(tmp_path / "a.npz", **{keys[0]: PICTURES, keys[1]: labels}, **other)
    images = load("npz", path=str(tmp_path / "a.npz"), split=split)
    np.testing.assert_array_equal(images.read(np.array([5, 2])), PICTURES[[5, 2]])
    np.testing.assert_array_equal(images.labels, labels)
    assert images.num_classes == 4 and images.labels.dtype == np.int32


def test_npz_takes_the_split_before_the_common_names(tmp_path):
    np.savez(
        tmp_path / "a.npz", images=PICTURES, x_test=PICTURES[3:], classes=list("ab")
    )
    images = load("npz", path=str(tmp_path / "a.npz"), split="test")
    assert images.num == 3 and images.num_classes == 0


def test_npz_counts_the_named_classes(tmp_path):
    np.savez(
        tmp_path / "a.npz", x=PICTURES, y=np.zeros((6, 1), int), classes=["a", "b"]
    )
    assert load("npz", path=str(tmp_path / "a.npz")).num_classes == 2


def test_npz_of_grey_images_without_channels(tmp_path):
    np.savez(tmp_path / "a.npz", images=PICTURES[..., 0])
    images = load("npz", path=str(tmp_path / "a.npz"), size=4)
    assert images.shape == (4, 4, 1) and images.num_classes == 0


@pytest.mark.parametrize(
    "arrays, message",
    [
        (dict(pictures=PICTURES), "no images of split 'train'; it has pictures;"),
        (dict(x=PICTURES / 255), r"images float64\[6, 8, 8, 3\]; they must be uint8"),
        (dict(x=PICTURES.transpose(0, 3, 1, 2)), r"uint8\[6, 3, 8, 8\]; they must be"),
        (dict(x=PICTURES[:0]), "the array is empty"),
        (dict(x=PICTURES, y=np.arange(5)), r"labels int64\[5\] for 6 images"),
        (dict(x=PICTURES, y=np.eye(6)), r"labels float64\[6, 6\] for 6 images"),
        (
            dict(x=PICTURES, y=np.arange(6) - 1),
            "labels from -1 to 4; they must be 0 ..",
        ),
        (dict(x=PICTURES, y=np.arange(6), classes=["a"]), r"to 5; they must be 0 .. 0"),
        (dict(x=np.array([{}], object)), "not a readable .npz file .*allow_pickle"),
    ],
)
def test_npz_with_wrong_arrays(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    error = fails(message, name="npz", path=str(tmp_path / "a.npz"))
    assert error.exit_code == 3 and "a.npz" in str(error)


@pytest.mark.parametrize("where", ["magic", "middle", "cut"])
def test_npz_damaged(tmp_path, where):
    file = tmp_path / "a.npz"
    np.savez(file, images=PICTURES)
    content = bytearray(file.read_bytes())
    if where == "cut":
        content = content[: len(content) // 2]
    else:
        content[0 if where == "magic" else 600] ^= 255
    file.write_bytes(content)
    fails("a.npz: not a readable .npz file", name="npz", path=str(file))


def test_a_single_array_is_not_a_set(tmp_path):
    np.save(tmp_path / "a.npy", PICTURES)
    fails("a .npy file; save it with np.savez", name="npz", path=f"{tmp_path}/a.npy")


# --- folder


def test_folder_with_labels_from_first_level_folders(tmp_path):
    path = write_files(
        tmp_path,
        {
            "b/2.PNG": png(PICTURES[0]),
            "b/10.webp": png(PICTURES[1], "WEBP", lossless=True),
            "a/deep/er/1.png": png(PICTURES[2]),
            "c/1.jpeg": png(PICTURES[3], "JPEG"),
            "c/notes.txt": b"no image",
            "c/._1.png": b"what macOS leaves behind",
        },
    )
    images = load("folder", path=path)
    assert (images.num, images.num_classes) == (4, 3)
    assert images.labels.tolist() == [0, 1, 1, 2]
    np.testing.assert_array_equal(images.read(np.array([0, 1, 2])), PICTURES[[2, 1, 0]])


@pytest.mark.parametrize("prefix", ["", "all/", "all/of/"])
def test_one_folder_is_no_class(tmp_path, prefix):
    path = write_files(tmp_path, {f"{prefix}{i}.png": png(PICTURES[i]) for i in (1, 0)})
    images = load("folder", path=path)
    assert images.num_classes == 0 and images.labels.tolist() == [0, 0]
    np.testing.assert_array_equal(images.in_memory, PICTURES[:2])


def test_folder_crops_the_centre_and_resizes(tmp_path):
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = [10, 200, 30]  # the centred square
    images = load("folder", path=write_files(tmp_path, {"a.png": png(wide)}), size=2)
    assert images.shape == (2, 2, 3)
    assert (images.read(np.array([0])) == [10, 200, 30]).all()


def test_folder_turns_photos_as_the_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees
    left_dark = np.zeros((8, 8, 3), np.uint8)
    left_dark[:, 4:] = 255
    photo = png(left_dark, "JPEG", exif=exif, quality=95)
    array = load("folder", path=write_files(tmp_path, {"a.jpg": photo})).in_memory[0]
    assert array[:4].mean() < 5 and array[4:].mean() > 250


def test_folder_of_grey_and_of_palette_images(tmp_path):
    grey = write_files(tmp_path / "grey", {"a.png": png(PICTURES[0, ..., 0])})
    assert load("folder", path=grey).shape == (8, 8, 1)
    palette, content = Image.new("P", (8, 8), 1), io.BytesIO()
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.save(content, "PNG")
    coloured = write_files(tmp_path / "palette", {"a.png": content.getvalue()})
    assert (load("folder", path=coloured).in_memory == [9, 8, 7]).all()


@pytest.mark.parametrize(
    "files, message",
    [
        ({"a.txt": b""}, "no images in it; looked for PNG, JPEG"),
        (
            {"a.png": png(PICTURES[0]), "b/c.png": png(PICTURES[1])},
            r"images in it and in folders of it \(a.png, b/c.png\)",
        ),
        (
            {"a.png": png(PICTURES[0]), "b.png": png(PICTURES[1, :6])},
            "b.png: 8x6 in a set of 8x8; set data.size",
        ),
        (
            {"a.png": png(PICTURES[0, ..., 0]), "b.png": png(PICTURES[1])},
            "b.png: a colour image in a set of grey ones",
        ),
        ({"a.png": png(np.ones((8, 8), np.uint16))}, "a.png: more than 8 bits"),
        (
            {"a.png": b""},
            r"a.png: not a readable image \(its content is none of PNG, JPEG",
        ),
        ({"a.png": png(PICTURES[0])[:100]}, "a.png: not a readable image"),
        ({"a.png": png(PICTURES[0], "PCX")}, "a.png: not a readable image"),
    ],
)
def test_folder_with_wrong_files(tmp_path, files, message):
    error = fails(message, name="folder", path=write_files(tmp_path, files))
    assert error.exit_code == 3


def test_folder_has_no_splits(tmp_path):
    fails("data.split='val': a folder has no", name="folder", path="x", split="val")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [63, 31])  # above once: a warning; twice: an error
def test_pillows_limit_of_pixels_holds(tmp_path, monkeypatch, limit):
    path = write_files(tmp_path, {"a.png": png(PICTURES[0])})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    fails("a.png: .*(limit of 63 pixels|exceeds limit of 62)", name="folder", path=path)


def test_large_sets_are_decoded_when_read(tmp_path, monkeypatch):
    files = {f"{i}.png": png(PICTURES[i]) for i in range(6)}
    files["5.png"] = files["5.png"][:-30]
    path = write_files(tmp_path, files)
    monkeypatch.setattr(encoded, "MAX_DECODED", 6 * 8 * 8 * 3 - 1)
    images = load("folder", path=path)
    assert images.in_memory is None
    batch = Batches(images, seed=0, batch_size=4)
    expected = PICTURES[batch.indices(0)]
    if 5 not in batch.indices(0):
        np.testing.assert_array_equal(batch[0]["x0"], expected)
    np.testing.assert_array_equal(images.read(np.array([4, 1])), PICTURES[[4, 1]])
    with pytest.raises(DataError, match="5.png: not a readable image"):
        images.read(np.array([5]))


# --- EDM zip


def test_edm_zip_with_labels(tmp_path):
    files, labels = edm_files()
    images = load("edm_zip", path=write_zip(tmp_path / "a.zip", {**labels, **files}))
    assert images.labels.tolist() == [3, 0, 1] and images.num_classes == 4
    np.testing.assert_array_equal(images.in_memory, PICTURES[:3])


@pytest.mark.parametrize("labels", [{}, {"dataset.json": '{"labels": null}'}])
def test_edm_zip_without_labels(tmp_path, labels):
    files, _ = edm_files()
    images = load("edm_zip", path=write_zip(tmp_path / "a.zip", {**files, **labels}))
    assert images.num_classes == 0 and images.labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "name", ["../a.png", "/a.png", "b/../../a.png", "C:\\a.png", "..\\a.png"]
)
def test_edm_zip_with_names_that_point_outside(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", {name: png(PICTURES[0])})
    fails("points outside; not read", name="edm_zip", path=path)


def test_edm_zip_with_a_link(tmp_path):
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = write_zip(tmp_path / "a.zip", {info: b"/etc/passwd"})
    fails("'a.png' is a symbolic link; not read", name="edm_zip", path=path)


def test_edm_zip_with_a_member_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(edm_zip, "MAX_BYTES", 100)
    path = write_zip(tmp_path / "a.zip", edm_files()[0])
    fails("bytes, above the limit of 100; not read", name="edm_zip", path=path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", r"dataset.json: must be \{\"labels\""),
        ("[]", r"dataset.json: must be \{\"labels\""),
        ('{"labels": [1]}', r"dataset.json: must be \{\"labels\""),
        (
            '{"labels": []}',
            "3 images have no label .the first is '00000/img0",
        ),
    ],
)
def test_edm_zip_with_wrong_labels(tmp_path, text, message):
    files = {**edm_files()[0], "dataset.json": text}
    fails(message, name="edm_zip", path=write_zip(tmp_path / "a.zip", files))


def test_edm_zip_with_vectors_for_labels(tmp_path):
    files, labels = edm_files(([0.5], [1.0], [2.0]))
    path = write_zip(tmp_path / "a.zip", {**files, **labels})
    fails(r"is \[2.0\]; every image must have an integer", name="edm_zip", path=path)


def test_edm_zip_damaged(tmp_path):
    file = pathlib.Path(write_zip(tmp_path / "a.zip", edm_files()[0]))
    content = bytearray(file.read_bytes())
    content[120] ^= 1  # in the first image
    file.write_bytes(content)
    fails("img00000000.png: damaged .*CRC", name="edm_zip", path=str(file))
    file.write_bytes(content[:200])
    fails("not a readable .zip file", name="edm_zip", path=str(file))
    fails("no images", name="edm_zip", path=write_zip(tmp_path / "b.zip", {"a": b""}))


# --- tensorflow-datasets


def test_tfds_without_tensorflow(tmp_path, monkeypatch):
    labels = [3, 1, 4, 1, 5, 9]
    data_dir = prepare(tmp_path, "cifar10", PICTURES, labels)
    images = load("cifar10", path=data_dir)
    assert images.labels.tolist() == labels and images.num_classes == 10
    np.testing.assert_array_equal(images.read(np.array([5, 0])), PICTURES[[5, 0]])
    part = load("tfds:cifar10", path=data_dir, split="train[50%:]")
    np.testing.assert_array_equal(part.in_memory, PICTURES[3:])
    monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
    assert load("cifar10").num == 6
    assert "tensorflow" not in sys.modules


def test_tfds_set_with_a_configuration_and_no_labels(tmp_path):
    data_dir = prepare(tmp_path, "downsampled_imagenet/64x64", PICTURES)
    images = load("downsampled_imagenet/64x64", path=data_dir)
    assert images.num_classes == 0 and images.shape == (8, 8, 3)


def test_tfds_takes_the_newest_version(tmp_path):
    data_dir = prepare(tmp_path, "mnist", PICTURES)
    (tmp_path / "mnist" / "3.0.2").rename(tmp_path / "mnist" / "3.0.10")
    prepare(tmp_path, "mnist", PICTURES[:2])
    assert load("mnist", path=data_dir).num == 6


def test_celeb_a_is_cropped_to_140_and_scaled_to_64(tmp_path):
    photo = np.zeros((218, 178, 3), np.uint8)
    photo[39:179, 19:159] = [40, 90, 200]  # the 140x140 in the middle
    data_dir = prepare(tmp_path, "celeb_a", [photo, photo])
    images = load("celeb_a", path=data_dir)
    assert images.shape == (64, 64, 3) and (images.in_memory == [40, 90, 200]).all()
    assert load("celeb_a", path=data_dir, size=32).shape == (32, 32, 3)


@pytest.mark.parametrize("name", TFDS_NAMES)
def test_a_set_that_is_not_prepared_says_how_to_get_it(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    error = fails(f"tfds:{name}: not prepared under {tmp_path}/{name}", name=name)
    assert error.exit_code == 3
    for advice in (
        "data.path",
        "TFDS_DATA_DIR",
        "pip install 'kdiff_jax[prepare]'",
        f"tfds build {name} --file_format=array_record",
        "--config.data.name=npz --config.data.path=",
    ):
        assert advice in str(error)


def test_tfds_without_random_access_is_refused(tmp_path):
    data_dir = prepare(tmp_path, "mnist", PICTURES, file_format="tfrecord")
    fails("3.0.2: in format tfrecord, which has no random", name="mnist", path=data_dir)


def test_tfds_with_a_wrong_split(tmp_path):
    data_dir = prepare(tmp_path, "mnist", PICTURES)
    message = r"data.split='dev': tfds:mnist has the splits train"
    fails(message, name="mnist", path=data_dir, split="dev")


def test_tfds_damaged(tmp_path):
    data_dir = prepare(tmp_path, "mnist", PICTURES, [0] * 6)
    file = next(tmp_path.rglob("*00000-of-00002"))
    content = bytearray(file.read_bytes())
    content[content.index(b"IHDR") + 40] ^= 1
    file.write_bytes(content)
    fails(r"tfds:mnist\[0\]: .* cannot be read .*hash", name="mnist", path=data_dir)
    file.unlink()
    fails("cannot be read .*No such file", name="mnist", path=data_dir)
