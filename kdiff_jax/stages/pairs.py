def run(job, stage):
    raise SystemExit


def source(job, name):
    raise SystemExit


def on_device(b):
    return b
