"""What holds for the whole suite, in whatever order and process its files run."""
import huggingface_hub.constants  # noqa: F401  reads the environment once: here, before a test says that it is offline
import torch

# one thread a process: the suite runs in as many processes as there are cores, and threads that wait spin
torch.set_num_threads(1)
