"""A report as a browser takes it apart: its elements, what they would fetch or run, and its text."""
import re
from html.parser import HTMLParser

# attributes that a browser fetches from
FETCHED = {"src", "href", "xlink:href", "srcset", "data", "action", "formaction", "poster", "background", "ping"}
EMPTY = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """elements: (tag, attributes). texts: the text of each closed element, those inside it included, by tag."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert not self._open, f"left open: {[tag for tag, _ in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in EMPTY:
            self._open.append((tag, []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        for _, texts in self._open:
            texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        name, texts = self._open.pop()
        assert name == tag, f"<{name}> is closed by </{tag}>"
        self.texts.setdefault(tag, []).append("".join(texts))

    def fetches(self) -> list[str]:
        """Every address that is no data in the page itself and no place in it."""
        given = [value for _, attributes in self.elements for name, value in attributes.items() if name in FETCHED]
        styles = [a["style"] for _, a in self.elements if "style" in a] + self.texts.get("style", [])
        given += [found for style in styles for found in re.findall(r"url\(([^)]*)\)|@import ([^;]*)", style)
                  for found in found if found]
        given += [value for _, attributes in self.elements for v in attributes.values()
                  for value in re.findall(r"url\(([^)]*)\)", v)]
        return [g for g in (x.strip("'\" ") for x in given) if not g.startswith(("data:image/png;base64,", "#"))]

    def runs(self) -> list[str]:
        """Whatever would run a script."""
        active = ("script", "iframe", "object", "embed", "base", "link")
        return [tag for tag, attributes in self.elements if tag in active
                or any(name.startswith("on") or value.lower().strip().startswith("javascript:")
                       for name, value in attributes.items())]
