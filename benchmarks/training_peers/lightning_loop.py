"""PyTorch Lightning as its guide has it: a LightningModule, a DataLoader, a Trainer; loggers,
checkpoints and the progress bar are off.

    python -m benchmarks.training_peers.lightning_loop ROWS

A line is a batch size; an answer is JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from dataclasses import asdict
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.training_work.rows import Cost, Meter, Rows, begin, config_of, make_rows
from tasks.training.ranks import device


class Flights(lightning.LightningModule):
    """The demo's network; the meter runs from the first batch to the last."""

    def __init__(self, batch: int, rows: int) -> None:
        super().__init__()
        self.run, self.rows = begin(config_of(batch), rows), rows
        self.network = self.run.network
        self.cost = Cost(0, 0.0, 0.0)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        """Mean loss of a batch."""
        numeric, categorical, target = batch
        return self.run.loss(self.network(numeric, categorical), target).mean()

    def configure_optimizers(self) -> Any:
        """One step of the schedule a batch."""
        schedule = {"scheduler": self.run.schedule, "interval": "step"}
        return {"optimizer": self.run.optimizer, "lr_scheduler": schedule}

    def on_train_start(self) -> None:
        """What was before is not counted."""
        self.meter = Meter()

    def on_train_end(self) -> None:
        """Nor what comes after."""
        self.cost = self.meter.read(self.rows)


def trained(rows: Rows, batch: int) -> Cost:
    """One epoch."""
    dataset = TensorDataset(rows.numeric, rows.categorical, rows.target)
    module = Flights(batch, len(rows.target))
    trainer = lightning.Trainer(
        max_epochs=1, accelerator=device().type, logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(dataset, batch_size=batch, shuffle=True))
    return module.cost


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # it advises workers, which cost more here
    ROWS = make_rows(int(sys.argv[1]))
    for line in sys.stdin:
        print(json.dumps(asdict(trained(ROWS, int(line)))), flush=True)
