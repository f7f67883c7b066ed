"""Two students that share the times, and halve their steps, for tests of hosts."""

import points


def get_config():
    found = points.with_rounds()
    found.train.log_every = 1
    return found.lock()
