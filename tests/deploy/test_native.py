"""Native kernels answer like torch, wherever their tensors lie, and nothing needs them."""
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vitrail
from tests.contracts.small import build as small
from tests.deploy.test_optimize import apart, noise
from vitrail.deploy.cpu.native import attention, build, depthwise, linear, norm

needed = pytest.mark.skipif(build.library() is None, reason="this machine has no AVX-512 or no compiler")
TYPES = [torch.float32, torch.bfloat16]
NEAR = {torch.float32: 5e-6, torch.bfloat16: 3e-2}


def skip_without(module: Any, dtype: torch.dtype) -> None:
    if not module.available(dtype):
        pytest.skip(f"no kernel for {dtype} here")


def softmax(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    scores = scale * q.double() @ k.double().transpose(-1, -2)
    return (scores if bias is None else scores + bias.double()).softmax(-1) @ v.double()


@needed
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("N", "M", "D", "E"), [(1, 1, 2, 1), (49, 49, 32, 32), (17, 5, 6, 20), (25, 200, 64, 64),
                                                (100, 16, 36, 36), (3, 33, 130, 70), (48, 48, 196, 196)])
def test_attention(N: int, M: int, D: int, E: int, dtype: torch.dtype) -> None:
    skip_without(attention, dtype)
    q, k, v = (noise(2, 3, rows, width, seed=width).to(dtype) for rows, width in ((N, D), (M, D), (M, E)))
    for bias in (None, noise(N, M).to(dtype), noise(2, 3, N, M).to(dtype), noise(1, M).to(dtype)):
        found = attention.attend(q, k, v, bias, 0.2)
        assert found.shape == (2, 3, N, E) and found.dtype == dtype
        assert found.transpose(-2, -3).is_contiguous()
        assert (found - softmax(q, k, v, bias, 0.2)).abs().max() <= NEAR[dtype]


@needed
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("laid", ["packed", "transposed", "with gaps", "in five dimensions"])
def test_attention_to_what_lies_anywhere(laid: str, dtype: torch.dtype) -> None:
    skip_without(attention, dtype)
    if laid == "transposed":                            # channels attend to each other
        q, k, v = noise(2, 30, 3, 4, 22).to(dtype).permute(2, 0, 3, 4, 1).unbind()
    elif laid == "with gaps":
        q, k, v = noise(3, 2, 4, 66, 40).to(dtype)[:, :, :, ::3, ::2].unbind()
    elif laid == "in five dimensions":
        q, k, v = noise(2, 5, 21, 3, 4, 20).to(dtype).permute(3, 0, 1, 4, 2, 5).unbind()
    else:
        q, k, v = noise(2, 30, 3, 4, 22).to(dtype).permute(2, 0, 3, 1, 4).unbind()
    expected = softmax(q, k, v, None, 0.3)
    assert (attention.attend(q, k, v, None, 0.3) - expected).abs().max() <= NEAR[dtype]
    order = [0, *range(2, q.ndim), 1]
    found = attention.attend(q, k, v, None, 0.3, order)
    assert found.permute(order).is_contiguous() and (found - expected).abs().max() <= NEAR[dtype]


@needed
def test_a_bias_returns_for_every_image() -> None:
    q, k, v = noise(3, 12, 2, 9, 8).unbind()
    bias = noise(4, 2, 9, 9)
    expected = softmax(q, k, v, bias.repeat(3, 1, 1, 1), 1.0)
    assert (attention.attend(q, k, v, bias, 1.0) - expected).abs().max() <= NEAR[torch.float32]


@needed
@pytest.mark.parametrize("dtype", TYPES)
def test_a_share_of_attention_beside_one_that_is_fixed(dtype: torch.dtype) -> None:
    skip_without(attention, dtype)
    q, k, v = noise(3, 2, 3, 37, 20).to(dtype).unbind()
    share, fixed = noise(3, 1, 1, seed=1).sigmoid(), noise(3, 37, 37, seed=2).softmax(-1)
    weights = (0.3 * q.double() @ k.double().transpose(-1, -2)).softmax(-1)
    expected = (share.double() * weights + fixed.double()) @ v.double()
    found = attention.attend(q, k, v, None, 0.3, share=share, fixed=fixed)
    assert (found - expected).abs().max() <= NEAR[dtype]
    found = attention.attend(q, k, v, None, 0.3, (0, 2, 3, 1), share=share, fixed=fixed)
    assert (found - expected).abs().max() <= NEAR[dtype] and found.permute(0, 2, 3, 1).is_contiguous()


@needed
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("N", "D"), [(9, 6), (48, 196), (64, 32), (100, 20)])
def test_attention_of_vectors_of_length_one(N: int, D: int, dtype: torch.dtype) -> None:
    skip_without(attention, dtype)
    q, k, v = noise(3, 2, 3, D, N).to(dtype).transpose(-1, -2).unbind()
    q[:, :, 1], factor = 0, noise(3, 1, 1, seed=1).exp() * 5
    one, other = (F.normalize(x.double(), dim=-1) for x in (q, k))
    expected = softmax(one * factor.double(), other, v, None, 1.0)
    found = attention.attend(q, k, v, None, 1.0, least=1e-12, factor=factor)
    assert (found - expected).abs().max() <= 2 * NEAR[dtype]
    q[:, :, 2] = 1e-3                                   # shorter than the least
    few = F.normalize(q.double(), dim=-1, eps=1.0)
    expected = softmax(few, F.normalize(k.double(), dim=-1, eps=1.0), v, None, 1.0)
    assert (attention.attend(q, k, v, None, 1.0, least=1.0) - expected).abs().max() <= NEAR[dtype]


@needed
def test_gated_attention_is_one_call() -> None:
    model, image = small("convit_ti"), noise(2, 3, 64, 96)
    made = vitrail.optimize(model, image)
    assert made.report.rewritten["attention in a native kernel"] == 2, "the gated block and the plain one"
    assert apart(model, made, noise(2, 3, 64, 96, seed=1)) <= 1e-5


@needed
def test_masks_hide_and_what_is_no_number_shows() -> None:
    q, k, v = noise(3, 1, 2, 20, 8).unbind()
    mask = torch.zeros(20, 20)
    mask[:, 5:] = -torch.inf
    seen = attention.attend(q, k, v, mask, 1.0)
    assert (seen - softmax(q, k[..., :5, :], v[..., :5, :], None, 1.0)).abs().max() <= NEAR[torch.float32]
    q[0, 1, 7, 3] = torch.nan
    found = attention.attend(q, k, v, None, 1.0)
    assert found[0, 1, 7].isnan().all() and found.isnan().sum() == 8
    q[0, 1, 7, 3] = 1e30                                # scores beyond what e^x bears
    assert attention.attend(q, k, v, None, 1.0).isfinite().all()


@needed
def test_the_count_of_threads_changes_nothing() -> None:
    q, k, v = noise(3, 1, 3, 150, 32).unbind()
    before, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            found.append(attention.attend(q, k, v, None, 1.0))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@needed
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 3, 16, 24, 100, 1000])
def test_layer_norm(channels: int, dtype: torch.dtype) -> None:
    skip_without(norm, dtype)
    x, weight, bias = noise(2, 5, channels).to(dtype), noise(channels, seed=1), noise(channels, seed=2)
    for w, b in ((weight, bias), (weight, None), (None, None)):
        expected = F.layer_norm(x.double(), (channels,), *(p if p is None else p.double() for p in (w, b)), eps=1e-3)
        assert ((norm.norm(x, w, b, 1e-3) - expected).abs() <= NEAR[dtype] * expected.abs().clamp_min(1)).all()
        far = norm.norm(x + 1000, w, b, 1e-3) if dtype == torch.float32 else expected
        assert (far - expected).abs().max() <= 2e-3, "a large mean costs digits of x, and no more"


@needed
@pytest.mark.parametrize("dtype", TYPES)
def test_answers_rounded_to_bytes(dtype: torch.dtype) -> None:
    """As if they were rounded after; and a map that lies otherwise keeps its place."""
    skip_without(attention, dtype)
    x, (q, k, v) = noise(3, 7, 40).to(dtype), noise(3, 2, 3, 19, 8).to(dtype).unbind()
    for plain, bytes_ in ((norm.norm(x, None, None, 1e-5), norm.norm(x, None, None, 1e-5, (0.02, 100))),
                          (attention.attend(q, k, v, None, 1.0), attention.attend(q, k, v, None, 1.0,
                                                                                  step=(0.02, 100)))):
        exact = (plain.double() / 0.02 + 100).clamp(0, 255)
        assert bytes_.dtype == torch.uint8 and bytes_.stride() == plain.stride()
        assert (bytes_ - exact).abs().max() <= 0.5 + NEAR[dtype] / 0.02
    for laid in (x, x.transpose(0, 1), x[:, ::2], x[..., 3]):
        found = norm.rounded(laid, 0.02, 100)
        assert (found - (laid.double() / 0.02 + 100).clamp(0, 255)).abs().max() <= 0.5 + 1e-3


@needed
def test_no_kernel_reads_beyond_its_tensors(tmp_path: Path) -> None:
    """Every tensor ends where a page ends, and the next page cannot be read."""
    code = Path(__file__).with_name("guarded.py")
    done = subprocess.run([sys.executable, str(code)], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0 and done.stdout == "fine\n", done.stderr


@needed
@pytest.mark.parametrize("name", ["deit_ti16", "swin_t", "mobilevit_xxs", "xcit_nano_12_p16"])
def test_models_need_none_of_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = small(name), noise(2, 3, 64, 96)
    fast = vitrail.optimize(model, image)
    assert fast.report.rewritten["attention in a native kernel"] and \
        fast.report.rewritten["layer norm in a native kernel"]
    for module in (attention, norm, linear, depthwise):
        monkeypatch.setattr(module, "available", lambda dtype: False)
    plain = vitrail.optimize(model, image)
    assert not any(count for what, count in plain.report.rewritten.items() if "native" in what)
    other = noise(2, 3, 64, 96, seed=1)
    assert apart(model, plain, other) <= 1e-5 and apart(model, fast, other) <= 1e-5
    assert not torch.equal(fast(other), plain(other)), "both ran the same"


def test_without_them_where_they_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    fresh = build.found.__wrapped__
    for name, value, why in (("VITRAIL_NATIVE", "0", "VITRAIL_NATIVE=0"), ("PATH", str(tmp_path), "no C++ compiler")):
        with monkeypatch.context() as patch:
            patch.delenv("CXX", raising=False)
            patch.setenv(name, value)
            kernels, said = fresh()
            assert kernels is None and why in said
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert fresh() == (None, f"none: {broken} fails: no such option") and not list(tmp_path.rglob("*.so"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert fresh() == (None, "none: they are for AVX-512, and torch runs with AVX2 here")


@needed
def test_built_once_and_again_where_the_file_is_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    fresh = build.found.__wrapped__
    assert fresh()[0] is not None
    told, kept = sorted(tmp_path.rglob("*.s*"))
    assert (told.suffix, kept.suffix) == (".sha256", ".so")
    with monkeypatch.context() as patch:
        patch.setattr(build, "built", lambda *_: pytest.fail("it was there"))
        assert fresh()[0] is not None
    whole, broken = kept.read_bytes(), tmp_path / "broken" / "native" / kept.name
    broken.parent.mkdir(parents=True)
    broken.write_bytes(whole[:1000])
    broken.with_suffix(".sha256").write_text(told.read_text())
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "broken"))
    assert fresh()[0] is not None and len(broken.read_bytes()) > 1000
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "a file" / "within"))
    (tmp_path / "a file").write_text("")
    assert fresh()[0] is not None, "a folder that cannot be written"
