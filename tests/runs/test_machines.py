"""Machines of one run that differ: two processes with working copies of their own."""

import os
import shutil
import socket
import subprocess
import sys

import pytest

TRAIN = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "precision": "float32"}


@pytest.fixture
def machines(ftp_recipe, ftp_tiny_model, tmp_path):
    """Two copies of a directory with a recipe, and what runs it in both at once."""
    model = {"id": str(ftp_tiny_model), "dtype": "float32", "device": "cpu"}
    recipe = ftp_recipe(name="two", model=model, train=TRAIN, watch=[])
    copies = [tmp_path / "machine-0", tmp_path / "machine-1"]
    for copy in copies:
        copy.mkdir()
        for file in tmp_path.glob("*.*"):
            shutil.copy(file, copy)
    assert (copies[0] / recipe.name).is_file()

    def run(*arguments, paths=("", "")):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            port = listening.getsockname()[1]
        started = []
        for rank, copy in enumerate(copies):
            variables = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            variables |= {"LOCAL_RANK": "0", "FTP_COLLECTIVE_SECONDS": "60"}
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, [paths[rank], os.environ.get("PYTHONPATH")]))
            command = [sys.executable, "-m", "ftp", "run", recipe.name, *arguments]
            started.append(
                subprocess.Popen(
                    command, cwd=copy, env={**os.environ, **variables}, text=True, stdout=-1, stderr=subprocess.STDOUT
                )
            )
        said = []
        try:
            said = [process.communicate(timeout=100)[0] for process in started]
        finally:
            for process in started:
                process.kill()
        return [process.returncode for process in started], said

    return copies, run


def test_a_machine_with_other_data_and_another_package_is_named(machines, tmp_path):
    (_, other), run = machines
    data = next(file for file in other.glob("*.jsonl"))
    data.write_text(data.read_text() + data.read_text().splitlines()[0] + "\n")
    older = tmp_path / "older" / "peft-0.20.9.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: peft\nVersion: 0.20.9\n")
    codes, said = run(paths=("", str(older.parent)))
    assert codes == [2, 2], said
    host = socket.gethostname()
    for text in said:
        assert f"process 1 on {host} differs from process 0 on {host}:" in text
        assert f"  data: {data.name}: other bytes\n" in text
        assert "  packages: peft 0.20.9 where the first has 0.21" in text
        assert "Traceback" not in text
    assert not list(tmp_path.glob("machine-*/runs")), "nothing has begun"


@pytest.mark.slow
def test_machines_that_are_alike_train_in_a_directory_that_both_see(machines, tmp_path):
    _, run = machines
    codes, said = run("--runs", str(tmp_path / "runs"))
    assert codes == [0, 0], said


def test_a_machine_that_doesnt_see_the_runs_directory_says_so(machines, tmp_path):
    from ftp.cli.processes import take_part
    from ftp.errors import LaunchError

    class Far:
        rank = 1

        def wait_for_training(self):
            return tmp_path / "not here"

    with pytest.raises(LaunchError, match=r"process 1 on \S+ doesn't see the run's directory .*not here: put the runs"):
        take_part(Far(), None, tmp_path, None)
