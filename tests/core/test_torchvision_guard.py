"""torchvision's transforms and timm import, whether or not torchvision's binary loads."""
import subprocess
import sys

CODE = """
import torch, torch.library
real = torch.library.register_fake
from vitrail.core.torchvision_guard import import_torchvision
{before}
first = import_torchvision()
assert import_torchvision() is first
assert torch.library.register_fake is real
import torchvision.transforms.v2 as v2, timm
out = v2.Resize([5, 4], antialias=True)(torch.zeros(3, 8, 8, dtype=torch.uint8))
print(out.shape)
"""


def run(before: str) -> str:
    code = CODE.format(before=before)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guard() -> None:
    assert run("") == "torch.Size([3, 5, 4])\n"


def test_the_guard_after_a_failed_import() -> None:
    assert run("try:\n    import torchvision\nexcept RuntimeError:\n    pass") == "torch.Size([3, 5, 4])\n"


def test_torchvision_missing_or_broken_is_said() -> None:
    code = ("import sys\nsys.modules['torchvision'] = None\nfrom vitrail.core.errors import MissingExtra\n"
            "from vitrail.core.torchvision_guard import import_torchvision\n"
            "try:\n    import_torchvision()\nexcept MissingExtra as e:\n    print(e)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install torchvision" in done.stdout, done.stderr
