"""Public teachers: the name of the file, its size, where it is, where it goes.

Nothing is fetched: a run names what is missing, and ends with exit code 4.
"""

EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"
HUB = "https://huggingface.co/google/"
EDM_TERMS = "CC BY-NC-SA 4.0, non-commercial"
STABLE = "https://huggingface.co/stable-diffusion-v1-5/"
RAIL = "CreativeML Open RAIL-M"
# Name -> (where, size, license).
KNOWN = {
    "edm-cifar10-32x32-cond-vp.pkl": (EDM, "223 MB", EDM_TERMS),
    "edm-ffhq-64x64-uncond-vp.pkl": (EDM, "247 MB", EDM_TERMS),
    "edm-afhqv2-64x64-uncond-vp.pkl": (EDM, "247 MB", EDM_TERMS),
    "edm-cifar10-32x32-uncond-ve.pkl": (EDM, "226 MB", EDM_TERMS),
    "edm-cifar10-32x32-cond-ve.pkl": (EDM, "226 MB", EDM_TERMS),
    "edm-ffhq-64x64-uncond-ve.pkl": (EDM, "251 MB", EDM_TERMS),
    "edm-afhqv2-64x64-uncond-ve.pkl": (EDM, "251 MB", EDM_TERMS),
    "edm-imagenet-64x64-cond-adm.pkl": (EDM, "1.18 GB", EDM_TERMS),
    # Moving averages; the folders without "ema" hold, very likely, the raw weights.
    "ddpm-ema-church-256": (HUB, "455 MB", "Apache-2.0"),
    "ddpm-ema-bedroom-256": (HUB, "455 MB", "Apache-2.0"),
    "ddpm-ema-celebahq-256": (HUB, "455 MB", "Apache-2.0"),
    "stable-diffusion-v1-5": (STABLE, "4.3 GB", RAIL),
    "DiT-XL-2-256": ("https://huggingface.co/facebook/", "3.0 GB", "CC BY-NC 4.0"),
    "SiT-XL-2-256": (
        "https://huggingface.co/nyu-visionx/SiT-collections/",
        "2.7 GB",
        "MIT",
    ),
    "sd-vae-ft-ema": ("https://huggingface.co/stabilityai/", "335 MB", "MIT"),
    # "ema_cifar10" of pesser/pytorch_diffusion, which has its address.
    "ema_diffusion_cifar10_model-790000.ckpt": (
        "https://github.com/pesser/pytorch_diffusion: ",
        "143 MB",
        "converted from hojonathanho/diffusion",
    ),
}
# What of a folder is read, where that is not a network and its scheduler.
PARTS = {
    "stable-diffusion-v1-5": "model_index.json and its parts",
    "DiT-XL-2-256": "model_index.json and its parts",
    "sd-vae-ft-ema": "config.json, diffusion_pytorch_model.safetensors",
}
CONVERTED = {"SiT-XL-2-256": "--precondition=velocity"}  # from NAME.pt, with options
FOLDER = "teachers"
PART_OF_IT = ": is part of the teacher's folder"


def bring(name: str) -> dict:
    """The sections `init` and `teacher_hint` of a recipe that begins from `name`."""
    return dict(
        init=dict(teacher=f"{FOLDER}/{name}"),
        teacher_hint=f": {where(name)}, or set --config.init.teacher=PATH",
    )


def cached(data: dict, folder: str) -> str:
    """How to get the cache of latents of a section `data`, by a folder's encoders."""
    return (
        f": make it by python -m kdiff_jax.cache --data={data['path']}"
        f" --output={data['latents']} --size={data['size']} --teacher={folder}"
        + " --flip"
        * data.get("flip", False)
    )


def where(name: str) -> str:
    """How to get a file or folder of `KNOWN`, its size and its license."""
    place, size, terms = KNOWN[name]
    path = f"{FOLDER}/{name}"
    if name in CONVERTED:
        file = f"{name}.pt"
        return (
            f"get {file} ({size}, {terms}) from {place}{file} and make a folder of it"
            f" by python -m kdiff_jax.convert --input={file} {CONVERTED[name]}"
            f" --output={path}"
        )
    what = f"{name} ({size}, {terms})"
    if not name.endswith((".pkl", ".ckpt")):
        # A folder of the Hub needs its weights and both of its configs.
        parts = PARTS.get(
            name,
            "config.json, scheduler_config.json,"
            " diffusion_pytorch_model.safetensors or .bin",
        )
        what = f"the folder {name} ({size}: {parts}; {terms})"
    return f"get {what} from {place}{name} and put it at {path}"
