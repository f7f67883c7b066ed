"""A recipe that adds a key to another one without unlocking it."""

from configs import digits_student


def get_config():
    config = digits_student.get_config()
    config.stages.student.init = dict(student="random")
    return config
