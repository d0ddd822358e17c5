"""Which presets are offered on which machine, told from the facts alone: no GPU is needed."""

import pytest

from pricer.commands.fitting import fitting_presets, gpu_bytes
from pricer.commands.memory import GIB


@pytest.mark.parametrize(
    ("memory", "presets"),
    [
        (None, ["small"]),
        (int(3.9 * GIB), ["small"]),  # an old laptop's GPU
        (int(14.7 * GIB), ["lite", "small"]),  # what a T4 of 16 GB has
        (int(22.2 * GIB), ["lite", "small"]),  # A10G, L4
        (int(39.4 * GIB), ["lite", "full", "small"]),  # A100 of 40 GB
        (int(79.1 * GIB), ["lite", "full", "small"]),  # H100
    ],
)
def test_the_memory_of_the_gpu_says_which_presets_fit(memory, presets):
    assert fitting_presets(memory) == presets


def test_a_machine_without_a_gpu_has_no_memory_of_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert gpu_bytes() is None
