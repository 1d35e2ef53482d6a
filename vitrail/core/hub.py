"""Where weights come from: a path, an address, or the Hugging Face hub; always a file on this disk in the end.

    fetch("weights/vit.pth")
    fetch("https://host/deit.pth", sha256="...")            # kept in the cache folder, resumed where it broke off
    fetch("hf://timm/vit_tiny_patch16_224.augreg_in21k/model.safetensors")          # @revision after the repository

The cache folder is `$VITRAIL_CACHE`, else `$XDG_CACHE_HOME/vitrail`, else `~/.cache/vitrail`. Files of the hub live
in the hub's own cache (`$HF_HUB_CACHE`, `$HF_HOME/hub`). Nothing is asked of the network when the argument `offline`
says so, or `VITRAIL_OFFLINE=1` or `HF_HUB_OFFLINE=1`.
"""
import os
import re
from pathlib import Path

from vitrail.core.download import download
from vitrail.core.errors import CheckpointError
from vitrail.core.files import absent, check_sha256

_HF = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+?))?/(?P<file>[^@]+)")
_BY_HAND = "or download the file by hand and pass its path"


def fetch(source: str | Path, *, sha256: str = "", revision: str | None = None, offline: bool | None = None) -> Path:
    """The file that `source` names, downloaded where needed.

    sha256: what the contents must hash to; a downloaded file that does not is set aside (renamed `*.refused`).
    revision: a branch, tag or commit of a repository on the hub.
    Raises CheckpointError: what failed and what to do.
    """
    text = str(source)
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise CheckpointError(f"{text}: {sha256!r} is no SHA-256; it has 64 hexadecimal digits")
    if offline is None:
        offline = any(os.environ.get(v, "").lower() in ("1", "true", "yes", "on")
                      for v in ("VITRAIL_OFFLINE", "HF_HUB_OFFLINE"))
    if text.startswith("hf://"):
        return _hub(text, sha256, revision, offline)
    if revision is not None:
        raise CheckpointError(f"{text}: only hf:// sources have revisions")
    if isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text):
        return download(text, cache_folder() / "downloads", sha256=sha256, offline=offline)
    path = Path(os.path.expanduser(text))
    if not os.path.exists(path):
        like = re.fullmatch(r"[\w.-]+/[\w.-]+/.+", text)
        raise CheckpointError(f"{path}: {absent(path)}"
                              + (f" If it is on the Hugging Face hub, say hf://{text}." if like else ""))
    if sha256:
        if not path.is_file():
            raise CheckpointError(f"{path}: only a file has a sha256, and this is none")
        check_sha256(path, sha256, set_aside=False)
    return path


def cache_folder() -> Path:
    """Where downloads are kept. Not created here."""
    if own := os.environ.get("VITRAIL_CACHE"):
        return Path(own).expanduser()
    return _caches() / "vitrail"


def _caches() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _hub_cache() -> Path:
    if own := os.environ.get("HF_HUB_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("HF_HOME") or _caches() / "huggingface").expanduser() / "hub"


def _hub(source: str, sha256: str, revision: str | None, offline: bool) -> Path:
    found = _HF.fullmatch(source)
    if found is None or ".." in found["file"].split("/"):
        raise CheckpointError(f"{source}: write it as hf://owner/repository/file, "
                              "or hf://owner/repository@revision/file")
    if revision and found["revision"] not in (None, revision):
        raise CheckpointError(f"{source}: this names one revision and the argument another, {revision!r}; give one")
    path = _from_hub(source, found["repo"], found["file"], revision or found["revision"], offline)
    # The hub names the contents of large files by their SHA-256, so what lies in the cache can be checked for damage.
    # Only the nearest link has that name: the store behind it may name contents by another hash.
    named = Path(os.readlink(path)).name if path.is_symlink() else ""
    if sha256 or re.fullmatch(r"[0-9a-f]{64}", named):
        check_sha256(path, sha256 or named, set_aside=True)
    return path


def _from_hub(source: str, repo: str, file: str, revision: str | None, offline: bool) -> Path:
    import huggingface_hub  # takes a second, and a path on this disk does not need it
    from huggingface_hub import errors

    at = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        return Path(huggingface_hub.hf_hub_download(
            repo, file, revision=revision, cache_dir=_hub_cache(), local_files_only=offline, endpoint=at,
            library_name="vitrail"))
    except errors.GatedRepoError as e:
        why = (f"its owner asks for an agreement first; accept it at {at}/{repo}, log in with `hf auth login`, "
               f"{_BY_HAND}")
        raise CheckpointError(f"{source}: {why}") from e
    except errors.RepositoryNotFoundError as e:
        raise CheckpointError(f"{source}: {at} has no repository {repo!r}, or keeps it private; check the name, log in "
                              f"with `hf auth login`, {_BY_HAND}") from e
    except errors.RevisionNotFoundError as e:
        raise CheckpointError(f"{source}: {repo!r} has no revision {revision!r}; leave it out for the newest") from e
    except errors.LocalEntryNotFoundError as e:
        code = getattr(getattr(e.__cause__, "response", None), "status_code", None)
        why = "offline mode is on" if offline else f"{at} answered {code}" if code else f"{at} cannot be reached"
        why += ", and the file is not in the cache; " + ("download it once while online" if offline else
                                                         "try again later, or check the connection")
        raise CheckpointError(f"{source}: {why}, {_BY_HAND}") from e
    except errors.EntryNotFoundError as e:
        raise CheckpointError(f"{source}: {repo!r} has no file {file!r}; see {at}/{repo}/tree/main") from e
    except errors.HFValidationError as e:
        raise CheckpointError(f"{source}: this is no name of a repository: {e}") from e
    except errors.HfHubHTTPError as e:
        code = getattr(e.response, "status_code", "an error")
        raise CheckpointError(f"{source}: {at} answered {code}; try again later, {_BY_HAND}") from e
    except Exception as e:      # the hub's library lets through whatever its network layer of the day raises
        raise CheckpointError(f"{source}: the download failed: {type(e).__name__}: {str(e)[:300]}; "
                              f"try again, {_BY_HAND}") from e
