"""FID, KID, IS and neighbours beside torch-fidelity, pytorch-fid, clean-fid and prdc.

They are no dependencies of kdiff_jax and live in an environment of their own, here
called theirs/ (torch 2.13.0 for the CPU, and `pip install --no-deps
torchvision==0.28.0 pytorch-fid clean-fid torch-fidelity prdc` with numpy, scipy,
pillow, tqdm, requests, scikit-learn).

    python benchmarks/fid_against_torch.py make FOLDER IMAGES.npz 10000
    theirs/bin/python benchmarks/fid_against_torch.py theirs FOLDER torch-fidelity 10000
    python benchmarks/fid_against_torch.py ours FOLDER torch-fidelity 10000
    theirs/bin/python benchmarks/fid_against_torch.py figures FOLDER
    python benchmarks/fid_against_torch.py compare FOLDER RESULT.json

`make` takes so many images in two halves (uint8 NHWC, `images`, `x` or `x_train`) and
random weights of FID's Inception-v3. `theirs` and `ours` look at some of them with one
preprocessing, in pieces that are kept: a run that was ended goes on. `figures` and
`compare` take the images that both sides have seen; the last prints and writes each
figure of both with its relative difference. `share FOLDER OTHER` writes features that
cost nothing, the same for both sides, to OTHER: `figures` and `compare` of it say what
the figures alone differ by at 10,000 images.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import sys
import types
import zlib

import numpy as np

BATCH, PIECE = 25, 100  # images of a call, and of a file: as many of each half
PREPROCESSINGS = "torch-fidelity", "pytorch-fid", "clean-fid"
KEYS = {"torch-fidelity": ("2048", "logits_unbiased")}  # what is read; else the first
SEED, SUBSETS = 2020, 100
THEIRS = "torch", "torch-fidelity", "pytorch-fid", "clean-fid", "prdc"
OURS = "kdiff-jax", "jax", "flax", "numpy"


def make(folder, images, num):
    """The halves of a set of images, and random weights."""
    from flax import traverse_util

    from kdiff_jax.features import frozen, inception

    def tensor(name, shape):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("running_var"):
            return rng.uniform(0.5, 1.5, shape).astype("f4")
        draw = rng.standard_normal(shape)
        if len(shape) > 1:
            return (draw * np.sqrt(2 / np.prod(shape[1:]))).astype("f4")
        return (0.1 * draw + name.endswith("bn.weight")).astype("f4")

    folder.mkdir(parents=True, exist_ok=True)
    leaves = traverse_util.flatten_dict(frozen.shapes(inception.Inception()))
    weights = {}
    for leaf, x in leaves.items():
        name = frozen.torch_name(leaf)
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(x.shape), (0,))
        weights[name] = tensor(name, [x.shape[axis] for axis in axes])
    np.savez(folder / "weights.npz", **weights)
    with np.load(images) as file:
        array = next(file[k] for k in ("images", "x", "x_train") if k in file.files)
    chosen = np.random.default_rng(0).permutation(len(array))[:num]
    np.savez(folder / "images.npz", images=array[chosen])


def look(folder, side, name, num):
    """Features of the first `num` images, a file for each piece."""
    found = (folder / side / name).resolve()
    found.mkdir(parents=True, exist_ok=True)
    with np.load(folder / "images.npz") as file:
        images = file["images"]
    wanted = [
        (found / f"{i:04}.npz", images[i * PIECE :][:PIECE])
        for i in range(num // PIECE)
    ]
    wanted = [(path, piece) for path, piece in wanted if not path.exists()]
    if not wanted:
        return
    run = {"theirs": _torch, "ours": _jax}[side](folder, name)
    for path, piece in wanted:
        parts = [run(piece[i : i + BATCH]) for i in range(0, PIECE, BATCH)]
        keys = KEYS.get(name, ("2048",))
        values = {k: np.concatenate([part[k] for part in parts]) for k in keys}
        np.savez(path.with_suffix(".part.npz"), **values)
        path.with_suffix(".part.npz").rename(path)


def share(folder, other):
    """The same features for both sides, of all images: random projections of pixels.

    What is compared then is the figures alone, at more images than the network of
    both sides has time for.
    """
    with np.load(folder / "images.npz") as file:
        pixels = file["images"].reshape(len(file["images"]), -1) / np.float32(255)
    draw = np.random.default_rng(0)
    shape = pixels.shape[1], 2048 + 1008
    weights = draw.standard_normal(shape).astype("f4") / np.sqrt(shape[0] / 12)
    x = np.maximum((pixels - pixels.mean(axis=0)) @ weights, 0)
    for side in SIDES:
        for name in PREPROCESSINGS:
            found = other / side / name
            found.mkdir(parents=True)
            for i in range(len(x) // PIECE):
                part = x[i * PIECE :][:PIECE]
                values = {"2048": part[:, :2048], "logits_unbiased": part[:, 2048:]}
                keys = KEYS.get(name, ("2048",))
                np.savez(found / f"{i:04}.npz", **{k: values[k] for k in keys})


def _jax(folder, name):
    from kdiff_jax import metrics

    features = metrics.make(
        "inception", weights=folder / "weights.npz", preprocessing=name
    )
    return lambda batch: features.named(batch, KEYS.get(name, ("2048",)))


def _torch(folder, name):
    """(images) -> features by name, as the project `name` has them."""
    # PyPI's torchvision misses operators beside a torch for the CPU; none is used here.
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("none")
    import pytorch_fid.inception
    import torch
    from cleanfid.resize import build_resizer
    from torch_fidelity.feature_extractor_inceptionv3 import (
        FeatureExtractorInceptionV3,
    )

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with np.load(folder / "weights.npz") as file:
        weights = {k: torch.from_numpy(file[k]) for k in file.files}

    def channels_first(batch):
        return torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))

    if name == "torch-fidelity":
        path = str(folder / "weights.pth")
        torch.save(weights, path)
        keys = list(KEYS[name])
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", keys, feature_extractor_weights_path=path
        )

        def fidelity(batch):
            found = network(channels_first(batch))
            return {k: x.numpy() for k, x in zip(keys, found, strict=True)}

        return fidelity
    pytorch_fid.inception.load_state_dict_from_url = lambda *_, **__: weights
    plain = name == "pytorch-fid"
    network = pytorch_fid.inception.InceptionV3(
        [3], resize_input=plain, normalize_input=plain
    ).eval()
    resize = build_resizer("clean")

    def pooled(batch):
        if plain:
            x = channels_first(batch) / 255
        else:  # clean-fid's network is the same, scaled inside
            x = (channels_first(np.stack([resize(one) for one in batch])) - 128) / 128
        return {"2048": network(x)[0].flatten(1).numpy()}

    return pooled


def seen(folder, side, name):
    """Features of both halves, of all images that both sides have looked at."""
    both = [{p.name for p in (folder / s / name).glob("????.npz")} for s in SIDES]
    found = {}
    for piece in sorted(set.intersection(*both)):
        with np.load(folder / side / name / piece) as file:
            for key in file.files:
                found.setdefault(key, []).append(file[key])
    return {
        (key, half): np.concatenate([part[start::2] for part in parts])
        for key, parts in found.items()
        for start, half in enumerate("ab")
    }


SIDES = "theirs", "ours"


def figures(folder):
    """What the accepted implementations make of their own features."""
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("none")
    import cleanfid.fid
    import prdc
    import torch
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    torch.set_num_threads(1)
    found = {}
    for name, distance in (
        ("pytorch-fid", calculate_frechet_distance),
        ("clean-fid", cleanfid.fid.frechet_distance),
    ):
        x = seen(folder, "theirs", name)
        a, b = (x["2048", half].astype(np.float64) for half in "ab")
        moments = [f(y) for y in (a, b) for f in (_mean, _covariance)]
        found[f"FID, {name}"] = float(distance(*moments))
    # One subset of all of them has nothing random in it.
    found["KID of all, clean-fid"] = float(
        cleanfid.fid.kernel_distance(a, b, num_subsets=1, max_subset_size=len(a))
    )
    x = seen(folder, "theirs", "torch-fidelity")
    a, b = (torch.from_numpy(x["2048", half]) for half in "ab")
    moments = [metric_fid.fid_features_to_statistics(y) for y in (a, b)]
    (found["FID, torch-fidelity"],) = metric_fid.fid_statistics_to_metric(
        *moments, False
    ).values()
    kid = metric_kid.kid_features_to_metric(
        a,
        b,
        kid_subsets=SUBSETS,
        kid_subset_size=min(1000, len(a) // 2),
        rng_seed=SEED,
        verbose=False,
    )
    found["KID, torch-fidelity"] = kid["kernel_inception_distance_mean"]
    found["KID's deviation, torch-fidelity"] = kid["kernel_inception_distance_std"]
    score = metric_isc.isc_features_to_metric(
        torch.from_numpy(x["logits_unbiased", "a"])
    )
    found["IS, torch-fidelity"] = score["inception_score_mean"]
    found["IS's deviation, torch-fidelity"] = score["inception_score_std"]
    prc = metric_prc.prc_features_to_metric(a, b, prc_neighborhood=3, verbose=False)
    found["precision, torch-fidelity"] = prc["precision"]
    found["recall, torch-fidelity"] = prc["recall"]
    for k, keys in ((3, ("precision", "recall")), (5, ("density", "coverage"))):
        values = prdc.compute_prdc(b.numpy(), a.numpy(), nearest_k=k)
        found |= {f"{key}, prdc": float(values[key]) for key in keys}
    report = {"versions": _versions(THEIRS), "figures": found}
    (folder / "theirs.json").write_text(json.dumps(report))


def _ours(folder):
    """The same figures of ours, under the same names."""
    from kdiff_jax import metrics

    found = {}
    for name in PREPROCESSINGS:
        x = seen(folder, "ours", name)
        a, b = (x["2048", half] for half in "ab")
        moments = []
        for y in (a, b):
            stream = metrics.Moments().update(y)
            moments += [stream.mu, stream.sigma]
        found[f"FID, {name}"] = metrics.frechet_distance(*moments)
    found["KID of all, clean-fid"] = metrics.kernel_distance(a, b)
    x = seen(folder, "ours", "torch-fidelity")
    a, b = (x["2048", half] for half in "ab")
    kid = metrics.kernel_distance_subsets(
        a, b, num_subsets=SUBSETS, subset_size=min(1000, len(a) // 2), seed=SEED
    )
    score = metrics.inception_score(x["logits_unbiased", "a"], seed=SEED)
    for key, spread in (("KID", kid), ("IS", score)):
        found[f"{key}, torch-fidelity"] = spread.mean
        found[f"{key}'s deviation, torch-fidelity"] = spread.std
    balls = metrics.precision_recall(b, a, k=3)
    dense = metrics.density_coverage(b, a, k=5)
    for name in ("torch-fidelity", "prdc"):
        found |= {f"{key}, {name}": v for key, v in balls._asdict().items()}
    return found | {f"{key}, prdc": v for key, v in dense._asdict().items()}


def compare(folder, result):
    """Prints and writes both sides."""
    theirs = json.loads((folder / "theirs.json").read_text())
    ours, features, rows = _ours(folder), [], []
    for name in PREPROCESSINGS:
        wanted, found = (seen(folder, side, name) for side in SIDES)
        for (key, half), values in wanted.items():
            features.append(
                {
                    "features": f"{name}, {key}, half {half}",
                    "num_images": len(values),
                    "largest_difference": _largest(found[key, half] - values),
                    "largest": _largest(values),
                }
            )
    for key, value in theirs["figures"].items():
        off = abs(ours[key] / value - 1)
        row = {"figure": key, "theirs": value, "ours": ours[key]}
        rows.append(row | {"relative_difference": off})
        print(f"{key}: theirs {value:.8g}, ours {ours[key]:.8g}, off by {off:.1e}")
    for row in features:
        print(*row.values(), sep=", ")
    report = {
        "date": str(datetime.date.today()),
        "command": "python benchmarks/fid_against_torch.py compare",
        "versions": theirs["versions"] | _versions(OURS),
        "folder": folder.name,
        "weights": "random, functions of their names",
        "features": features,
        "figures": rows,
    }
    pathlib.Path(result).write_text(json.dumps(report, indent=1) + "\n")


def _largest(x):
    return float(np.abs(x).max())


def _mean(x):
    return x.mean(axis=0)


def _covariance(x):
    return np.cov(x, rowvar=False)


def _versions(names):
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "of this checkout"
    return found


def _one_core():
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"


if __name__ == "__main__":
    _one_core()
    phase, place, *rest = sys.argv[1:]
    place = pathlib.Path(place)
    if phase == "make":
        make(place, rest[0], int(rest[1]))
    elif phase in SIDES:
        look(place, phase, rest[0], int(rest[1]))
    elif phase == "share":
        share(place, pathlib.Path(rest[0]))
    elif phase == "figures":
        figures(place)
    else:
        compare(place, rest[0])
