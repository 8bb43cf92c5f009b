"""Trains a tiny model on 1, 2, … processes, forked from one that has imported the libraries.

Usage: python together.py MODEL DIRECTORY ORDERS, where ORDERS is JSON: a list of {name, count, adapter, train}, with
`trainer` for another than sft, `run` for another directory than its own, and `die` for the step at which all processes
are killed.
Each writes its events to DIRECTORY/<name>.jsonl and its weights to DIRECTORY/<name>.safetensors.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path

ROWS = [("Double 2." + " Please." * (n % 7), f"{n} doubled is {2 * n}." + " Really." * (n % 5)) for n in range(22)]
"""Rows of unlike lengths; the last step of an epoch has fewer than there are processes."""
VALIDATION = ROWS[3:10:3]


def train_one(model, directory, rows, order):
    """Train as an order says, as one of the processes."""
    import torch
    import transformers
    from safetensors.torch import save_file

    from ftp.components import TrainingJob
    from ftp.lm.training.torch_processes import joined
    from ftp_plugins.adapters.full import Full
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.adapters.qlora import QLoRA
    from ftp_plugins.loaders.huggingface import HuggingFace
    from ftp_plugins.trainers.dpo import DPO
    from ftp_plugins.trainers.kto import KTO
    from ftp_plugins.trainers.sft import SFT

    torch.set_num_threads(1)
    adapter = {"lora": LoRA, "full": Full, "qlora": QLoRA}[order["adapter"]](**order.get("options", {}))
    loader = HuggingFace(id=model, device="cpu", dtype="float32")
    loaded = loader.load(adapter.prepare(loader.describe()))
    transformers.set_seed(1)
    loaded = adapter.apply(loaded)
    home = directory / order.get("run", order["name"])
    home.mkdir(exist_ok=True)

    def emit(name, **values):
        if processes.first:
            with (directory / f"{order['name']}.jsonl").open("a") as stream:
                stream.write(json.dumps({"event": name, **values}, default=str) + "\n")
        if name == "metric" and values["step"] == order.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)

    with joined() as processes:
        told = processes.start_training(home, emit)
        job = TrainingJob(loaded, *rows[order.get("trainer", "sft")], home / "checkpoints", 1, told)
        trainer = {"sft": SFT, "dpo": DPO, "kto": KTO}[order.get("trainer", "sft")]
        trainer(**{"precision": "float32", **order["train"]}).train(job)
        if processes.first:
            weights = {n: w.detach().clone() for n, w in loaded.model.named_parameters() if w.requires_grad}
            save_file(weights, directory / f"{order['name']}.safetensors")


def rows_in(directory):
    """Return the corpus and the ledger of the rows of each trainer."""
    from ftp.recipe.model import Data, Source
    from ftp.stages.prepare_data import build_corpus
    from ftp_plugins.formatters.pairs import Instruct
    from ftp_plugins.formatters.preference import Feedback, Preference

    found = {}
    for trainer, (format, columns) in {
        "sft": (Instruct(), lambda n, asked, said: {"instruction": asked, "response": said}),
        "dpo": (
            Preference(),
            lambda n, asked, said: {"prompt": asked, "chosen": said, "rejected": "No." * (1 + n % 3)},
        ),
        "kto": (Feedback(), lambda n, asked, said: {"prompt": asked, "completion": said, "label": n % 3 > 0}),
    }.items():
        home = directory / trainer
        home.mkdir()
        sources = []
        for name, rows in (("train", ROWS), ("validation", VALIDATION)):
            lines = [json.dumps(columns(n, *row)) + "\n" for n, row in enumerate(rows)]
            (home / f"{name}.jsonl").write_text("".join(lines))
            sources.append(Source(path=str(home / f"{name}.jsonl"), format=format))
        data = Data(train=sources[:1], validation=sources[1])
        found[trainer] = build_corpus(data, home / "data", home, seed=1)
    return found


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def main(model, directory, orders):
    import peft  # noqa: F401
    import trl  # noqa: F401

    rows = rows_in(Path(directory))
    for order in json.loads(orders):
        port, children = free_port(), []
        for rank in range(order["count"]):
            child = os.fork()
            if child == 0:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(order["count"]), "FTP_COLLECTIVE_SECONDS": "60"}
                os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                try:
                    train_one(model, Path(directory), rows, order)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            children.append(child)
        codes = [os.waitpid(child, 0)[1] for child in children]
        if any(codes) != bool(order.get("die")):
            sys.exit(f"{order['name']}: {codes}")


if __name__ == "__main__":
    main(*sys.argv[1:])
