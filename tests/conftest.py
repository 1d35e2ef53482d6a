"""What holds for the whole suite, in whatever order and process its files run."""
import huggingface_hub.constants  # noqa: F401  reads the environment once: here, before a test says that it is offline
import pytest
import torch

from vitrail.core import catalogue, task

# one thread a process: the suite runs in as many processes as there are cores, and threads that wait spin
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def only_what_is_ours(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks and models that other test files registered in this process are hidden, but from the tests about them."""
    if "toys" not in request.node.path.parts and request.node.path.stem not in ("test_structure", "test_plugins"):
        monkeypatch.setattr(task, "_REGISTERED", {})
        monkeypatch.setattr(catalogue, "_REGISTERED", {})
