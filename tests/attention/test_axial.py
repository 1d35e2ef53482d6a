"""What is true of axial attention only: its reach, its tables of offsets, its norms, its gates, its memory."""
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.attention.proof import draw
from vitrail.attention.axial import Axial, Line, Scores, Sum
from vitrail.attention.axial_plain import PlainAxial
from vitrail.attention.gated_axial import Gated, GatedAxial
from vitrail.explanation.record import record
from vitrail.measure.memory import peak_bytes
from vitrail.positions.relative_2d import resampled, sliced

BUILDERS: dict[str, Callable[[tuple[int, int]], nn.Module]] = {
    "axial": lambda grid: Axial(16, 2, grid=grid), "axial_plain": lambda grid: PlainAxial(16, 2),
    "gated_axial": lambda grid: GatedAxial(16, 2, grid=grid)}


def line(length: int, *, fit: Callable[[Tensor, int], Tensor] = resampled) -> Line:
    return Line(16, 2, length=length, scores=Scores(2), total=Sum(16), fit=fit).eval()


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("size", [(5, 6), (7, 3), (1, 4), (4, 1)])
def test_one_axis_sees_its_line_and_both_see_all(name: str, size: tuple[int, int]) -> None:
    h, w = size
    mixer = BUILDERS[name](size).double().eval()
    whole = torch.ones(h, w, dtype=torch.bool)
    row = torch.zeros_like(whole)
    row[h // 2] = True
    for part, expected in ((mixer, whole), (mixer.get_submodule("width"), row)):
        x = draw(1, h, w, 16, dtype=torch.float64).requires_grad_()
        part(x)[0, h // 2, w - 1].sum().backward()
        assert x.grad is not None
        assert torch.equal(x.grad[0].abs().amax(-1) > 0, expected)


@pytest.mark.parametrize("name", BUILDERS)
def test_weights_of_columns_and_rows_are_shown(name: str) -> None:
    mixer, x = BUILDERS[name]((4, 6)).eval(), draw(3, 4, 6, 16)
    with record(mixer, gradients=True) as seen:
        mixer(x).sum().backward()
    columns, rows = (next(seen[n] for n in seen if n.startswith(part)) for part in ("height", "width"))
    assert columns.shape == (3, 6, 2, 4, 4) and rows.shape == (3, 4, 2, 6, 6)
    for weights in (columns, rows):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_offsets_count_from_the_query_to_the_key() -> None:
    """Alone, the vectors of queries turn every place towards the one of their offset; those of keys as well."""
    for part in (0, 1):
        mixer, x = line(5).double(), draw(1, 1, 5, 16, dtype=torch.float64)
        with torch.no_grad():
            mixer.qkv.weight.view(2, 16, 16)[:, :8].zero_()             # what is left of q and k is their norm's shift
            mixer.norm.bias.view(2, 16)[:, 4 * part:4 * part + 4] = 1
            mixer.offsets.zero_()
            mixer.offsets[4 + 2, 4 * part:4 * part + 4] = 100           # two to the right
        with torch.no_grad(), record(mixer) as seen:
            mixer(x)
        weights = seen["softmax"][0, 0]
        assert torch.equal(weights.argmax(-1)[:, :3], torch.tensor([2, 3, 4]).expand(2, 3))
        torch.testing.assert_close(weights[:, 3:], torch.full_like(weights[:, 3:], 0.2))


def test_another_size_resamples_the_offsets_or_keeps_them() -> None:
    for fit in (resampled, sliced):
        mixer = line(6, fit=fit)
        for n in (4, 9):
            expected = line(n)
            expected.load_state_dict({**mixer.state_dict(), "offsets": fit(mixer.offsets.detach(), n)})
            x = draw(2, 3, n, 16)
            assert torch.equal(mixer(x), expected(x))


def test_evaluation_is_the_norm_by_what_it_remembers_up_to_what_a_softmax_forgets() -> None:
    part, kinds = Scores(2), [draw(3, 4, 2, 5, 5, seed=i) * (i + 1) + i for i in range(3)]
    with torch.no_grad():
        part.gain.copy_(draw(3, 2, 1, 1, seed=9))
        part(*kinds)                                                    # moves the running statistics
        part.eval()
        whole = part.norm(torch.cat(kinds, 2).flatten(0, 1)).unflatten(1, (3, 2)) * part.gain
        torch.testing.assert_close(part(*kinds).softmax(-1), whole.sum(1).view(3, 4, 2, 5, 5).softmax(-1))


def test_gates_are_born_as_published_and_closed_ones_leave_places_out() -> None:
    mixer = GatedAxial(16, 2, grid=(4, 5))
    gates = [p for n, p in mixer.named_parameters() if n.endswith("gates")]
    assert [g.tolist() for g in gates] == [pytest.approx([0.1, 0.1]), pytest.approx([1, 0.1])] * 2
    with torch.no_grad():
        for part, kept in zip(gates, ([0, 0], [1, 0]) * 2, strict=True):
            part.copy_(torch.tensor(kept))
    x = draw(2, 4, 5, 16)
    order = torch.tensor([2, 0, 4, 1, 3])
    closed = mixer.eval()
    torch.testing.assert_close(closed(x)[:, :, order], closed(x[:, :, order]))          # no place differs from another
    plain = Axial(16, 2, grid=(4, 5)).eval()
    assert not torch.allclose(plain(x)[:, :, order], plain(x[:, :, order]), atol=1e-3)


def test_open_gates_are_axial_attention() -> None:
    gated, plain = GatedAxial(16, 2, grid=(4, 5)).eval(), Axial(16, 2, grid=(4, 5)).eval()
    with torch.no_grad():
        for part in gated.modules():
            if isinstance(part, Gated):
                part.gates.fill_(1)
    plain.load_state_dict({n.replace(".total.total.", ".total.").replace(".scores.total.", ".scores."): t
                           for n, t in gated.state_dict().items() if not n.endswith("gates")})
    x = draw(2, 4, 5, 16)
    torch.testing.assert_close(gated(x), plain(x))


def test_a_batch_norm_undoes_the_gate_before_it_in_training_but_for_its_sign() -> None:
    mixer, x = GatedAxial(16, 2, grid=(4, 5)).double().train(), draw(4, 4, 5, 16, dtype=torch.float64)
    for part in mixer.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eps = 1e-14
    gates = [p for n, p in mixer.named_parameters() if n.endswith("gates")]

    def answer(*factors: float) -> Tensor:
        with torch.no_grad():
            for part, factor in zip(gates, factors, strict=True):
                part.fill_(factor)
            return mixer(x)
    torch.testing.assert_close(answer(1, 1, 1, 1), answer(0.3, 2, 0.1, 3), rtol=1e-7, atol=1e-7)
    assert not torch.allclose(answer(1, 1, 1, 1), answer(-1, 1, 1, 1), atol=1e-2)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("training", [False, True])
def test_memory_grows_with_the_tokens_to_the_power_of_three_halves(name: str, training: bool) -> None:
    def peak(side: int) -> int:
        mixer, x = BUILDERS[name]((side, side)).train(training), draw(1, side, side, 16)
        if training:
            return peak_bytes(lambda: mixer(x).sum().backward())
        with torch.inference_mode():
            return peak_bytes(lambda: mixer(x))
    power = 1.0 if name == "axial_plain" else 1.5           # the fused kernel holds no weights
    assert peak(64) <= 1.1 * 4 ** power * peak(32)


def test_wrong_numbers_are_refused() -> None:
    for heads in (3, 0, 16):
        with pytest.raises(ValueError, match=f"{heads} heads do not divide"):
            Axial(16, heads, grid=(4, 4))
    with pytest.raises(ValueError, match="3 heads do not divide"):
        PlainAxial(16, 3)
