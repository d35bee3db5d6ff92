"""Every metric of a training, in one list, and what each says now.

GPU and system rows bear the names that NVIDIA's DCGM exporter and Prometheus's node exporter give
them (github.com/NVIDIA/dcgm-exporter, etc/default-counters.csv; DCGM knows no memory but a GPU's),
so that one dashboard shows a node with those exporters and one without them.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

GAUGE, COUNTER = "gauge", "counter"
MIB = 1 << 20


class Metric(NamedTuple):
    """A metric's kind, its meaning, and its labels beside the use case, which all have."""

    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


class Reading(NamedTuple):
    """What a metric of ``METRICS`` says, and the values of its labels."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


_GPU = ("gpu", "UUID", "device", "modelName", "Hostname")
METRICS = {
    "airworthy_training_steps_total": Metric(COUNTER, "Global batches that were learnt"),
    "airworthy_training_rows_total": Metric(COUNTER, "Rows that were learnt, each epoch anew"),
    "airworthy_training_epochs_total": Metric(COUNTER, "Epochs that were judged"),
    "airworthy_training_step_loss": Metric(GAUGE, "Mean loss of the last batches"),
    "airworthy_training_gradient_norm": Metric(GAUGE, "Mean gradient norm of the last batches"),
    "airworthy_training_rows_per_second": Metric(GAUGE, "Rows that are learnt a second"),
    "airworthy_training_loss": Metric(GAUGE, "Mean loss of the last epoch", ("part",)),
    "airworthy_training_phase_seconds_total": Metric(COUNTER, "Seconds by phase", ("phase",)),
    # Of rank 0, and of its machine. One name has one meaning, word for word, or a Pushgateway and
    # Prometheus complain.
    "process_cpu_seconds_total": Metric(
        COUNTER, "Total user and system CPU time spent in seconds."
    ),
    "process_resident_memory_bytes": Metric(GAUGE, "Resident memory size in bytes."),
    "node_memory_MemTotal_bytes": Metric(GAUGE, "Memory information field MemTotal_bytes."),
    "node_memory_MemAvailable_bytes": Metric(GAUGE, "Memory information field MemAvailable_bytes."),
    "DCGM_FI_DEV_CPU_UTIL_TOTAL": Metric(GAUGE, "CPU utilization of the machine (0 to 1)"),
    "DCGM_FI_DEV_GPU_UTIL": Metric(GAUGE, "GPU utilization (in %)", _GPU),
    "DCGM_FI_DEV_MEM_COPY_UTIL": Metric(GAUGE, "Memory utilization (in %)", _GPU),
    "DCGM_FI_DEV_FB_USED": Metric(GAUGE, "Framebuffer memory used (in MiB)", _GPU),
    "DCGM_FI_DEV_FB_FREE": Metric(GAUGE, "Framebuffer memory free (in MiB)", _GPU),
    "DCGM_FI_DEV_SM_CLOCK": Metric(GAUGE, "SM clock frequency (in MHz)", _GPU),
    "DCGM_FI_DEV_GPU_TEMP": Metric(GAUGE, "GPU temperature (in C)", _GPU),
    "DCGM_FI_DEV_POWER_USAGE": Metric(GAUGE, "Power draw (in W)", _GPU),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": Metric(
        COUNTER, "Total energy consumption since boot (in mJ)", _GPU
    ),
}


class Machine:
    """The rows of the machine and its GPUs. ``say`` is told once where NVML is not there."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._gpus: list[tuple[Any, tuple[str, ...]]] = []
        try:
            self._gpus = _gpus()
        except Exception as exc:  # a driver may be there in part
            say(f"no GPU figures: {exc}")

    def readings(self) -> Iterator[Reading]:
        """What machine, process and GPUs say now."""
        import psutil

        memory = psutil.virtual_memory()
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield Reading("process_cpu_seconds_total", used.ru_utime + used.ru_stime)
        yield Reading("process_resident_memory_bytes", psutil.Process().memory_info().rss)
        yield Reading("node_memory_MemTotal_bytes", memory.total)
        yield Reading("node_memory_MemAvailable_bytes", memory.available)
        yield Reading("DCGM_FI_DEV_CPU_UTIL_TOTAL", psutil.cpu_percent() / 100)
        for handle, labels in self._gpus:
            yield from _gpu_readings(handle, labels)


def _gpus() -> list[tuple[Any, tuple[str, ...]]]:
    """NVML's handles with their labels, as the DCGM exporter writes them."""
    import pynvml

    pynvml.nvmlInit()
    found: list[tuple[Any, tuple[str, ...]]] = []
    for number in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        uuid, model = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
        labels = (str(number), uuid, f"nvidia{number}", model, socket.gethostname())
        found.append((handle, labels))
    return found


def _gpu_readings(handle: Any, labels: tuple[str, ...]) -> Iterator[Reading]:
    """Of one GPU; what it does not know is left out, as by the DCGM exporter."""
    import pynvml

    asked: dict[str, Callable[[], float]] = {
        "GPU_UTIL": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "MEM_COPY_UTIL": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).memory,
        "FB_USED": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used / MIB,
        "FB_FREE": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).free / MIB,
        "SM_CLOCK": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "GPU_TEMP": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "POWER_USAGE": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,  # it says mW
        "TOTAL_ENERGY_CONSUMPTION": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle),
    }
    for name, ask in asked.items():
        try:
            yield Reading(f"DCGM_FI_DEV_{name}", float(ask()), labels)
        except pynvml.NVMLError:
            continue


def families(readings: list[Reading]) -> Iterator[Family]:
    """The readings as Prometheus's client has them; the use case is what they are grouped by."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, metric in METRICS.items():
        # The client would add "_total" to a counter of the DCGM exporter.
        counter = metric.kind == COUNTER and name.endswith("_total")
        kind = CounterMetricFamily if counter else GaugeMetricFamily
        family = kind(name, metric.meaning, labels=metric.labels)
        for reading in readings:
            if reading.name == name:
                family.add_metric(reading.labels, reading.value)
        if family.samples:
            yield family
