"""The doctor as people run it, where names and secrets lie around it."""

import json
import os

import child

USER, HOST, SECRET = "ada_lovelace", "engine-room-7", "s3cr3t-0123456789"
NAMES = ["versions", "devices", "memory", "cache", "distributed", "matmul"]
NAMES += ["convolution", "disk", "write", "checkpoint"]


def test_a_report_has_no_secrets_names_or_paths(tmp_path, monkeypatch):
    """Also where something is broken, whose message names the file."""
    home = tmp_path / f"home of {USER}" / "a b"
    home.mkdir(parents=True)
    (home / "file").touch()
    planted = dict(HOME=str(home), USER=USER, LOGNAME=USER, HOSTNAME=HOST)
    planted |= dict(WANDB_API_KEY=SECRET, MY_PASSWORD=SECRET + "p", HF_TOKEN=SECRET)
    planted |= dict(KDIFF_CACHE=str(home / "cache"), XLA_DUMP=f"--to={home}/x {SECRET}")
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    code, output = child.run("doctor", "--json", "--workdir=~/file/w", devices=2)
    report = json.loads(output[output.index("{") :])
    assert code == report["exit_code"] == 2
    found = {one["name"]: one for one in report["findings"]}
    assert list(found) == NAMES
    states = {name: one["state"] for name, one in found.items()}
    assert states["write"] == "broken" and states["checkpoint"] == "skipped"
    assert {states[n] for n in ("versions", "cache", "distributed")} == {"fine"}
    assert found["devices"]["facts"]["num_devices"] == 2
    for text in (USER, HOST, SECRET, str(tmp_path), "home of", str(child.ROOT)):
        assert text not in output, text
    assert not [name for name in os.listdir(home) if "doctor" in name]
