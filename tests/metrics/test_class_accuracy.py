"""Accuracy on the classes that images were asked for, by hand."""

import numpy as np
import pytest

from kdiff_jax.errors import ConfigError
from kdiff_jax.features import resnet56
from kdiff_jax.metrics import class_accuracy
from kdiff_jax.metrics.collect import Collector, Looks
from kdiff_jax.metrics.features import Features
from kdiff_jax.metrics.seen import Seen
from kdiff_jax.stages import asked

NAMES = resnet56.CLASSES


def test_three_of_four_are_what_was_asked_for():
    logits = np.float32([[1, 0, 0], [0, 2, 3], [5, 4, 3], [0, 9, 8]])
    seen = Seen(logits=logits, classes=np.array([0, 2, 1, 1]))
    assert class_accuracy.measure(seen, Seen()) == {"class_accuracy": 0.75}


def test_a_prompt_asks_for_the_class_that_it_names():
    texts = ["A photo of a frog.", "a ship", "a photo of a frog"]
    questions = asked.Asked(lambda seed: np.arange(3), lambda seed: texts, {})
    np.testing.assert_array_equal(questions.classes(0, NAMES, 80), [6, 8, 6])
    by_label = asked.Asked(lambda seed: np.array([3, 0]), lambda seed: None, {})
    np.testing.assert_array_equal(by_label.classes(0, NAMES, 10), [3, 0])
    with pytest.raises(
        ConfigError, match="the model has 80 classes, the classifier 10"
    ):
        by_label.classes(0, NAMES, 80)
    for text, num in (("a frogger", 0), ("a cat and a dog", 2)):
        with pytest.raises(ConfigError, match=f"'{text}' names {num} of airplane"):
            asked.classes_of([text], NAMES)


def test_classes_stay_beside_the_logits_of_their_images():
    extractor = resnet56.EXTRACTOR._replace(
        dims={"pooled": 3, "logits": 3},
        extract=None,
        prepare=lambda images, _: dict.fromkeys(
            ("pooled", "logits"), images.reshape(len(images), -1).astype("f4")
        ),
    )
    features = Features("one", extractor, {}, "default")
    looks = Looks(classes=np.array([2, 0]))
    needs = {"logits", "classes", "rows"}
    collector = Collector(features, needs, 2, (1, 1, 3), looks=looks)
    images = np.uint8([[7, 0, 0], [0, 0, 9]]).reshape(2, 1, 1, 3)
    collector.add(np.array([1, 0]), images)
    seen = collector.seen()
    assert class_accuracy.measure(seen, Seen()) == {"class_accuracy": 1.0}
    part = seen.part(np.array([1, 1, 0]))
    np.testing.assert_array_equal(part.classes, [0, 0, 2])
    assert class_accuracy.measure(part, Seen()) == {"class_accuracy": 1.0}
