"""The site builds without a warning, and needs nobody's server."""
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.conftest import heavy
from tests.docs.pages import ROOT


@heavy
def test_the_site_builds_strictly_and_offline(tmp_path: Path) -> None:
    built = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
                           cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert built.returncode == 0, built.stderr[-3000:]
    assert "WARNING" not in built.stderr
    home = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//", home)
    page = (tmp_path / "site" / "papers" / "backbones" / "vit.html").read_text("utf-8")
    assert "source/vitrail/backbones/vit.py.html" in page
    assert (tmp_path / "site" / "source" / "vitrail" / "backbones" / "vit.py.html").is_file()
    assert "create_model" in (tmp_path / "site" / "api" / "index.html").read_text("utf-8")
