"""Public teachers: the name of the file, its size, where it is, where it goes.

Nothing is fetched: a run names what is missing, and ends with exit code 4.
"""

EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"
HUB = "https://huggingface.co/google/"
EDM_TERMS = "CC BY-NC-SA 4.0, non-commercial"
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
    # "ema_cifar10" of pesser/pytorch_diffusion, which has its address.
    "ema_diffusion_cifar10_model-790000.ckpt": (
        "https://github.com/pesser/pytorch_diffusion: ",
        "143 MB",
        "converted from hojonathanho/diffusion",
    ),
}
FOLDER = "teachers"


def bring(name: str) -> dict:
    """The sections `init` and `teacher_hint` of a recipe that begins from `name`."""
    where, size, terms = KNOWN[name]
    path = f"{FOLDER}/{name}"
    # A folder of the Hub needs its weights and both of its configs.
    what = f"{name} ({size}, {terms})"
    if not name.endswith((".pkl", ".ckpt")):
        what = (
            f"the folder {name} ({size}: config.json, scheduler_config.json,"
            f" diffusion_pytorch_model.safetensors or .bin; {terms})"
        )
    return dict(
        init=dict(teacher=path),
        teacher_hint=(
            f": get {what} from {where}{name} and put it at {path}, or set"
            " --config.init.teacher=PATH"
        ),
    )
