"""One thread a process: the suite runs in as many processes as there are cores, and threads that wait spin."""
import torch

torch.set_num_threads(1)
