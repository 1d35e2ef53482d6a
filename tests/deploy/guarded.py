"""Runs the native kernels on tensors behind each of which a page follows that cannot be read, for `test_native`."""
import ctypes
import mmap

import torch
from torch import Tensor

from vitrail.deploy.cpu.native import attention, depthwise, linear, norm

PAGE = mmap.PAGESIZE
held: list[mmap.mmap] = []


def at_the_edge(x: Tensor) -> Tensor:
    """A copy that ends where a page ends."""
    size = x.numel() * x.element_size()
    whole = -(-size // PAGE) * PAGE
    pages = mmap.mmap(-1, whole + PAGE)
    held.append(pages)
    start = ctypes.addressof(ctypes.c_char.from_buffer(pages))
    assert ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + whole), PAGE, 0) == 0
    copy = torch.frombuffer(pages, dtype=x.dtype, count=x.numel(), offset=whole - size).view(x.shape)
    return copy.copy_(x)


for dtype in (torch.float32, torch.bfloat16):
    if not attention.available(dtype):
        continue
    for D in (6, 20, 64):
        qkv = at_the_edge(torch.randn(1, 3, 37, 2, D).to(dtype)).transpose(-2, -3)
        bias = at_the_edge(torch.randn(37, 37).to(dtype))
        attention.attend(*qkv.unbind(1), bias, 1.0)
        attention.attend(*(x.transpose(-1, -2).contiguous().transpose(-1, -2) for x in qkv.unbind(1)), bias, 1.0)
    x, w = at_the_edge(torch.randn(5, 37).to(dtype)), at_the_edge(torch.randn(37))
    norm.norm(x, w, w, 1e-5)
    norm.rounded(x, 0.1, 3)
for dtype in (torch.float32, torch.bfloat16, torch.uint8):
    for N in (1, 20, 70, 130):
        if not linear.available(dtype):
            continue
        answer = torch.float32 if dtype == torch.uint8 else dtype
        x, b = at_the_edge(torch.ones(5, 36).to(dtype)), at_the_edge(torch.randn(N))
        w = at_the_edge(linear.packed(torch.ones(N, 36).to(torch.int8 if dtype == torch.uint8 else dtype)))
        index = at_the_edge(torch.tensor([[4], [-1], [0]], dtype=torch.int32))
        linear.linear(x, w, N, b, "gelu", at_the_edge(torch.ones(5, N).to(answer)), scale=b, dtype=answer)
        linear.linear(x, w, N, index=index, shape=(3, N), dtype=answer)
    if depthwise.available(dtype):
        for C in (3, 20, 64):
            x, w = at_the_edge(torch.ones(1, 6, 7, C).to(dtype)), at_the_edge(torch.ones(9, C))
            for stride in depthwise.STRIDES:
                depthwise.depthwise(x, w, w[-1], "gelu", (w[-1], w[-1]), stride=stride)
print("fine")
