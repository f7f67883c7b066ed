"""What a model is, as one hashable value: the spec of a model folder."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from kdiff_jax import domain, networks, samplers
from kdiff_jax.diffusion import guidance as guidances
from kdiff_jax.diffusion import process as processes
from kdiff_jax.diffusion.process import Process
from kdiff_jax.encoders import latents, texts
from kdiff_jax.interop import spec_check
from kdiff_jax.named import Keywords, Named, frozen, named, thawed
from kdiff_jax.partition import Partition

SECTIONS = ("network", "precondition", "process", "sampler", "autoencoder", "text")


class Origin(NamedTuple):
    """The foreign checkpoint that a model was converted from.

    Attributes:
        family: One of `foreign.families()`.
        file: Name of the file.
        sha256: Digest of the file.
    """

    family: str
    file: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Spec:
    """A model without its weights; made by `Spec.of`, which checks every value.

    Attributes:
        augment_dim: Length of EDM's augmentation label; 0 for none.
        cond_dim: Length of the vectors that it is conditioned on; 0 for labels.
        cond_length: Number of those vectors that a text is read as; 0 where conditions
            are single vectors, or labels.
        image_shape: (H, W, C) of one image.
        network: Name of the network, and its fields.
        num_classes: Number of classes, or with `cond_dim` of vectors or texts; 0 if
            unconditional, or if any text may be asked for.
        precondition: Name of the preconditioning, and its keywords.
        process: Name of the forward process, and its keywords.
        sampler: Name of the sampler, and its keywords; None for a network alone.
        space: Where its images live, a name of `domain.SPACES`.
        autoencoder: Name of what stands between "latents" and pixels, and its fields;
            None where it is not at hand.
        revision: Revision of the network's definition, see `networks.revision`.
        null_prob: Share of labels that were dropped in training, for guidance; None
            where that is not known.
        partition: Owners of the classes and times among several students; None for a
            single network.
        conditions: Digest of the table of vectors.
        source: Foreign checkpoint that the weights come from.
        sha256: Digest of the weights.
        kdiff_jax: Version that wrote the model.
        guidance_range: (low, high) of the strengths of guidance that it reads; None for
            a network that reads none.
        autoencoder_sha256: Digest of the autoencoder's weights.
        text: Name of the encoder that makes text states of token ids, and its fields;
            None where texts are kept as states.
        text_sha256: Digest of that encoder's weights.
        average: Weights of a training that these are: "params", the last ones, a moving
            average by its name, or "posthoc:SIGMA"; None where that is not known.
        facts: Whatever else a file says.

    Examples:
        >>> from kdiff_jax import interop
        >>> values = {
        ...     "network": {"name": "mlp", "channels": 8},
        ...     "precondition": {"name": "v"},
        ...     "process": {"name": "cosine"},
        ...     "sampler": {"name": "ddim", "num_steps": 4},
        ...     "image_shape": (1, 1, 2),
        ...     "num_classes": 4,
        ... }
        >>> spec = interop.Spec.of(values)
        >>> str(spec.sampler), spec.make_sampler().nfe, spec.make_process().t_max
        ('ddim(num_steps=4)', 4, 1.0)
        >>> spec.changed({"sampler": {"num_steps": 1}}).make_sampler().nfe
        1
        >>> spec.replace(sampler=None) == spec, interop.Spec.of(spec.plain()) == spec
        (False, True)
    """

    augment_dim: int
    cond_dim: int
    image_shape: tuple[int, int, int]
    network: Named
    num_classes: int
    precondition: Named
    process: Named
    sampler: Named | None = None
    space: str = "pixels"
    revision: int | None = None
    null_prob: float | int | None = None
    partition: Partition | None = None
    conditions: str | None = None
    source: Origin | None = None
    sha256: str | None = None
    kdiff_jax: str | None = None
    guidance_range: tuple[float | int, float | int] | None = None
    cond_length: int = 0
    autoencoder: Named | None = None
    autoencoder_sha256: str | None = None
    text: Named | None = None
    text_sha256: str | None = None
    average: str | None = None
    facts: Keywords = frozen({})

    @classmethod
    def of(cls, values: "Mapping[str, Any] | Spec", prefix: str = "") -> "Spec":
        """The spec of plain values, as `plain` gives them and files hold them.

        Args:
            values: "network", "precondition" and "process" are {"name": ...} with
                keywords beside it, as is "sampler", if there is one; "image_shape" and
                "num_classes" are needed, too.
            prefix: Goes before a value's name in messages: "--config.model.".

        Raises:
            ConfigError: Names the first value that no model has.
            CheckpointError: If the partition is none.
        """
        if isinstance(values, Spec):
            return values
        spec_check.check(values, prefix)
        known = {field.name for field in dataclasses.fields(cls)} - {"facts"}
        given: dict[str, Any] = {
            "augment_dim": 0,
            "cond_dim": 0,
            **{k: frozen(v) for k, v in values.items() if k in known and v is not None},
        }
        given |= {key: named(given[key]) for key in SECTIONS if key in given}
        if "partition" in given:
            given["partition"] = Partition.from_spec(values["partition"])
        if "source" in given:
            given["source"] = Origin(**given["source"])
        facts = {key: value for key, value in values.items() if key not in known}
        return cls(**given, facts=frozen(facts))

    def plain(self) -> dict[str, Any]:
        """Plain values, as JSON has them, that `of` reads; what is None is left out."""
        found: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None or field.name == "facts":
                continue
            if field.name == "cond_length" and not value:  # as files of before have it
                continue
            if isinstance(value, Named):
                value = value.plain()
            elif isinstance(value, Partition):
                value = value.to_spec()
            elif isinstance(value, Origin):
                value = value._asdict()
            found[field.name] = thawed(value)
        return found | thawed(self.facts)

    def replace(self, **fields) -> "Spec":
        """The same spec with other values of these fields, which are not checked.

        Args:
            **fields: Values as the attributes have them.
        """
        return dataclasses.replace(self, **fields)

    def changed(self, changes: Mapping[str, Any], prefix: str = "") -> "Spec":
        """The spec with other plain values.

        A section that names nothing changes keywords: {"network": {"dropout": 0.0}}
        keeps the network and takes its dropout away.

        Args:
            changes: Plain values by field; those of a section may be keywords alone.
            prefix: See `of`.

        Raises:
            ConfigError: See `of`.
        """
        values = self.plain()
        for key, value in changes.items():
            is_part = isinstance(value, Mapping) and "name" not in value
            if not is_part:
                values[key] = value
            elif value:
                values[key] = {**values.get(key, {}), **value}
        return Spec.of(thawed(values), prefix)

    def defining(self) -> "Spec":
        """What of it defines the function of the parameters, and no more."""
        return Spec(
            self.augment_dim,
            self.cond_dim,
            self.image_shape,
            self.network,
            self.num_classes,
            self.precondition,
            self.process,
            space=self.space,
            guidance_range=self.guidance_range,
            cond_length=self.cond_length,
            autoencoder=self.autoencoder,
            text=self.text,
        )

    def anew(self) -> "Spec":
        """The spec of a model that is to be trained: without the facts of a file."""
        return self.defining().replace(
            sampler=self.sampler,
            null_prob=self.null_prob,
            revision=networks.revision(self.network.name),
        )

    def unguided(self) -> "Spec":
        """The spec without the guidance of its sampler."""
        if self.sampler is None:
            return self
        name, keywords = self.sampler
        kept = {k: v for k, v in keywords.items() if not k.startswith("guidance")}
        return self.replace(sampler=Named(name, frozen(kept)))

    def without_precision(self) -> "Spec":
        """The spec that leaves it to its reader what the network computes in."""
        if "dtype" not in self.network.keywords:
            return self
        return self.replace(network=self.network.changed(dtype="float32"))

    def make_process(self) -> Process:
        """The forward process."""
        return self.process.call(processes.make)

    def make_reader(self, precision: str | None = None) -> domain.Reader | None:
        """What makes texts of its table; None where conditions are no texts."""
        if self.text is None:
            return domain.embedded(self.cond_length, self.cond_dim)
        return texts.Tokens(self.text, self.cond_length, precision or "float32")

    def make_space(self, precision: str | None = None) -> domain.Space:
        """Where its images live; an autoencoder computes in the precision."""
        if self.autoencoder is None:
            return domain.make_space(self.space, self.image_shape)
        dtype = precision or "float32"
        return latents.space(self.image_shape, self.autoencoder, dtype)

    def make_sampler(self) -> samplers.Sampler:
        """The model's own sampler, which there must be.

        One that reads its guidance is told it, and not asked twice.

        Raises:
            ConfigError: If the process has no such grid of times, or the model reads
                its guidance and was not made for this one.
        """
        assert self.sampler is not None
        process = self.make_process()
        if not self.guidance_range:
            return self.sampler.call(samplers.make, process=process)
        keywords = self.sampler.keywords
        interval = keywords.get("guidance_interval")
        guidances.check_told(self.guidance, self.guidance_range, interval)
        plain = self.sampler.changed(guidance=1).call(samplers.make, process=process)
        told = samplers.telling(plain, self.guidance)
        return told._replace(options={**plain.options, "guidance": self.guidance})

    @property
    def conditioning(self) -> domain.Conditions:
        """What the model may be asked for."""
        return domain.Conditions(self.num_classes, self.cond_dim, self.make_reader())

    @property
    def guidance(self) -> float | int:
        """Guidance scale of its sampler; 1 is none."""
        keywords = self.sampler.keywords if self.sampler else {}
        return keywords.get("guidance", 1)

    @property
    def remat(self) -> bool | None:
        """Whether its network computes activations again for gradients; None without
        such an option."""
        return self.network.keywords.get("remat")
