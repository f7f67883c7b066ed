"""Package metadata. The versions tested together stand in launch/constraints.txt."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
DOCS = [
    *("mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=1.0"),
    "nbconvert>=7.16",  # notebooks as pages
]


def version() -> str:
    """The package's version, read without importing it (JAX may not be there yet)."""
    text = (HERE / "kdiff_jax/__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def description() -> str:
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.exists() else ""


setup(
    name="kdiff_jax",
    version=version(),
    description="Distillation of diffusion models into one-step generators, in JAX",
    long_description=description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # The recipes go with it: those of users import what these share.
    packages=[
        *find_packages(include=["kdiff_jax", "kdiff_jax.*"]),
        "kdiff_jax.shipped.configs",
    ],
    package_dir={"kdiff_jax.shipped.configs": "configs"},
    package_data={"kdiff_jax": ["py.typed"], "kdiff_jax.shipped.configs": ["*.npy"]},
    entry_points={"console_scripts": ["kdiff=kdiff_jax.cli:run"]},
    install_requires=[
        "absl-py>=2.3",
        "array_record>=0.8.1",
        "chex>=0.1.90",
        "etils[epath]>=1.9.1",
        "flatbuffers>=24.3",  # jax.export needs it and does not say so
        "flax>=0.12",
        "grain>=0.2.15",
        "importlib_resources>=6.0",  # tensorflow-datasets needs it and does not say so
        "jax>=0.10",
        "jaxtyping>=0.3.2",
        "matplotlib>=3.9",
        "ml_collections>=1.0",
        "ml_dtypes>=0.5",
        "msgpack>=1.0.8",
        "numpy>=2.0",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.11.30",
        "pillow>=11.0",
        "rich>=13.0",
        "safetensors>=0.5",
        "scikit-learn>=1.6",
        "scipy>=1.14",
        "tensorboardX>=2.6.2.2",
        "tensorflow-datasets>=4.9.10",  # reads prepared sets; TensorFlow only prepares
        "tensorstore>=0.1.84",  # of Orbax; reads gs:// and s3://
    ],
    extras_require={
        "cuda": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        "plan": ["jax[tpu]>=0.10"],  # its compiler runs without a TPU
        "onnx": ["jax2onnx>=0.17", "onnxruntime>=1.20"],
        "text": ["tokenizers>=0.21"],  # prompts to tokens
        # Thirty packages, which is why tests have it not: those of the page skip.
        "demo": ["gradio>=6.0"],
        "prepare": ["tensorflow-cpu>=2.20; platform_system == 'Linux'"],
        "docs": DOCS,
        "test": [
            *DOCS,
            "beartype>=0.21",
            "build>=1.2",
            "hypothesis>=6.100",
            "ipykernel>=6.29",  # with nbclient it runs the notebooks
            "nbclient>=0.10",
            # Formatters and type checkers change their mind between versions.
            "pyright[nodejs]==1.1.414",
            "pytest>=8.3",
            "pytest-xdist>=3.7",
            "ruff==0.17.5",
            "setuptools>=77",  # makes the wheel that is tried
            "tokenizers>=0.21",
        ],
    },
)
