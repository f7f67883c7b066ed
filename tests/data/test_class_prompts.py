"""Prompts of the names of classes."""

import numpy as np
import pytest

from kdiff_jax.data import class_prompts
from kdiff_jax.errors import ConfigError


def test_prompts_go_class_by_class_and_images_keep_their_template():
    names, templates = ("a cat", "a dog"), ("{}", "a photo of {}", "a drawing of {}!")
    texts = class_prompts.texts(names, templates)
    assert texts[:3] == ("a cat", "a photo of a cat", "a drawing of a cat!")
    labels = np.arange(600) % 2
    found = class_prompts.numbers(labels, 3, seed=1)
    np.testing.assert_array_equal(found // 3, labels)
    # Three standard deviations of a count of 600 / 3.
    assert (np.abs(np.bincount(found % 3) - 200) < 35).all()
    np.testing.assert_array_equal(class_prompts.numbers(labels[:9], 3, 1), found[:9])
    assert (class_prompts.numbers(labels, 3, seed=2) != found).any()


@pytest.mark.parametrize(
    ("names", "templates", "line"),
    [
        (("a",), (), "data.templates=.*: prompts need both"),
        (("a",), ("photo",), "data.templates='photo': must have one {}"),
        (("a",), ("{} {}",), "must have one {}"),
        (("a", "a"), ("{}",), "make 'a' twice"),
    ],
)
def test_what_makes_no_prompts_is_refused(names, templates, line):
    with pytest.raises(ConfigError, match=line):
        class_prompts.check(names, templates, "data.")
