"""Two students that share the times, for tests of several hosts: cheap to compile."""

import recipes


def get_config():
    config = recipes.load("digits_o2mkd", "tiny").unlock()
    config.stages.student.method.features = "none"
    config.evaluate.features = ""
    config.train = dict(config.train) | dict(log_every=1)
    return config.lock()
