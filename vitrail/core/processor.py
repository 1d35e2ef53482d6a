"""What the system tells of its processor."""
import re


def processor(field: str) -> str:
    """A field of the first processor's, as "model name"; empty where the system tells nothing of that name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            found = re.search(rf"^{field}\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else ""
