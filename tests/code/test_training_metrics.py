"""A training's metrics as a collector and a Pushgateway receive them over sockets."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest
from otlp_collector import Collector
from serving_helpers import free_port

from tasks.watch.exporters import Live, push
from tasks.watch.telemetry import METRICS, Machine, Reading

PHASES = [
    Reading("airworthy_training_phase_seconds_total", 2.5, ("forward",)),
    Reading("airworthy_training_phase_seconds_total", 4.5, ("backward",)),
]
# Those that NVIDIA's exporter sends unless it is told otherwise, and the CPU's of its other fields.
OF_DCGM = {
    "CPU_UTIL_TOTAL", "FB_FREE", "FB_USED", "GPU_TEMP", "GPU_UTIL", "MEM_COPY_UTIL", "POWER_USAGE",
    "SM_CLOCK", "TOTAL_ENERGY_CONSUMPTION",
}  # fmt: skip


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that is up."""
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[str]:
    """The address of a Pushgateway, which complains of nothing that it gets."""
    address, log = f"127.0.0.1:{free_port()}", tmp_path / "log"
    with log.open("w") as file, subprocess.Popen(
        # Debian's would keep what it gets in a file of the machine's.
        ["prometheus-pushgateway", f"--web.listen-address={address}", "--persistence.file="],
        stderr=file,
    ) as process:  # fmt: skip
        for _ in range(200):
            try:
                scraped(address)
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        yield address
        process.terminate()
    assert "This is bad" not in log.read_text()


def scraped(address: str) -> str:
    """What Prometheus would read there."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def readings() -> list[Reading]:
    return [*PHASES, *Machine(lambda message: None).readings()]


def test_metrics_reach_a_collector_while_a_training_runs_and_at_its_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
    said: list[str] = []
    live = Live("flights", readings, said.append)
    while collector.received.empty():
        time.sleep(0.02)
    first = collector.metrics()[0]
    live.close()
    last = collector.metrics()[-1]
    for told in (first, last):
        assert told["airworthy_training_phase_seconds_total"] == [
            ({"use_case": "flights", "phase": "forward"}, 2.5),
            ({"use_case": "flights", "phase": "backward"}, 4.5),
        ]
        ((attributes, memory),) = told["process_resident_memory_bytes"]
        assert attributes == {"use_case": "flights"}
        assert memory > 1 << 24
    assert said == []


def test_a_collector_that_is_away_is_named_once_and_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    said: list[str] = []
    live = Live("flights", readings, said.append)
    began = time.monotonic()
    live.close()
    assert time.monotonic() - began < 5
    assert said == ["the collector of metrics (OTLP) does not take them; the training goes on"]
    assert caplog.records == []


def test_the_last_readings_wait_at_a_pushgateway(gateway: str) -> None:
    """Those of a training stand in the place of the one before; another use case's beside them."""
    said: list[str] = []
    push(
        gateway, "flights", [*PHASES, Reading("airworthy_training_epochs_total", 3.0)], said.append
    )
    push(gateway, "weather", readings(), said.append)
    push(gateway, "flights", readings(), said.append)
    text = scraped(gateway)
    assert "airworthy_training_epochs_total{" not in text
    for use_case in ("flights", "weather"):
        line = (
            f'airworthy_training_phase_seconds_total{{instance="",job="airworthy_training",'
            f'phase="forward",use_case="{use_case}"}} 2.5'
        )
        assert line in text.splitlines()
    assert "# TYPE airworthy_training_phase_seconds_total counter" in text
    assert "# TYPE node_memory_MemTotal_bytes gauge" in text
    assert said == []


def test_a_pushgateway_that_is_away_is_named() -> None:
    said: list[str] = []
    push(f"127.0.0.1:{free_port()}", "flights", readings(), said.append)
    (line,) = said
    assert "did not take the metrics" in line
    assert line.endswith("the training goes on")


def test_where_there_is_no_nvml_there_are_no_gpu_rows_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even on a machine that has it."""
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", refused)
    said: list[str] = []
    machine = Machine(said.append)
    told = [r.name for _ in range(2) for r in machine.readings()]
    assert said == ["no GPU figures: NVML Shared Library Not Found"]
    assert not any(name.startswith("DCGM_FI_DEV_GPU") for name in told)
    assert told.count("DCGM_FI_DEV_CPU_UTIL_TOTAL") == 2


def refused() -> None:
    """As where no driver is installed."""
    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def test_gpu_rows_are_those_of_the_dcgm_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, labels and units; NVML's answers stand in for a GPU's. What a GPU does not know is
    left out."""

    def unknown(handle: Any) -> float:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    class Two:
        gpu, memory, used, free = 71, 33, 3 << 30, 5 << 30

    answers = {
        "Init": lambda: None, "DeviceGetCount": lambda: 1,
        "DeviceGetHandleByIndex": lambda number: number, "DeviceGetUUID": lambda h: "GPU-1",
        "DeviceGetName": lambda h: "NVIDIA H100", "DeviceGetUtilizationRates": lambda h: Two,
        "DeviceGetMemoryInfo": lambda h: Two, "DeviceGetClockInfo": lambda h, kind: 1980,
        "DeviceGetTemperature": lambda h, kind: 41, "DeviceGetPowerUsage": lambda h: 310_500,
        "DeviceGetTotalEnergyConsumption": unknown,
    }  # fmt: skip
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, f"nvml{name}", answer)
    gpus = [r for r in Machine(print).readings() if "gpu" in METRICS[r.name].labels]
    told = {r.name.removeprefix("DCGM_FI_DEV_"): r.value for r in gpus}
    assert told == {
        "GPU_UTIL": 71, "MEM_COPY_UTIL": 33, "FB_USED": 3072, "FB_FREE": 5120, "SM_CLOCK": 1980,
        "GPU_TEMP": 41, "POWER_USAGE": 310.5,
    }  # fmt: skip
    assert {r.labels[:4] for r in gpus} == {("0", "GPU-1", "nvidia0", "NVIDIA H100")}


def test_every_metric_is_in_the_one_list() -> None:
    """Under a name that others know, or one of ours."""
    assert {n.removeprefix("DCGM_FI_DEV_") for n in METRICS if n.startswith("DCGM")} == OF_DCGM
    known = re.compile(r"(airworthy_training|DCGM_FI_DEV|process|node_memory)_\w+")
    assert [name for name in METRICS if not known.fullmatch(name)] == []
    read = "".join(path.read_text() for path in Path("tasks/watch").glob("*.py"))
    assert set(re.findall(r'"(airworthy_training_\w+)"', read)) <= set(METRICS)
