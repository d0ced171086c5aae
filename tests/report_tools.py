"""A page of HTML, parsed and held to what every page must be, and finished runs to write one of: for tests of pages/."""

import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from faults.harness import TINY, invoke, make_images

VOID = {"meta", "link", "img", "br", "wbr"}
HOSTILE = "<script>alert('1')</script>\"'&<b> 名前 \U0001f600"


class Page(HTMLParser):
    """What a page holds: tags with their attributes, ids, headings, the text outside of styles; checks nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.raw = text
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(set(names)) == len(names), (tag, names)
        self.tags.append((tag, dict(attributes)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(self.text.split())


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def assert_whole(page: Page, folder: Path) -> None:
    """What holds for every page: it stands alone, says what it shows, and leads to files that are there."""
    assert page.raw.startswith("<!DOCTYPE html>") and page.all("html") == [{"lang": "en"}]
    assert page.all("title")  # the page's first, then those of pictures
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.all(landmark)) == 1, landmark
    assert not page.all("script") and not page.all("iframe") and not page.all("object")
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action", "poster", "srcset", "data"):
            address = attributes.get(name)
            if address is None or address.startswith(("#", "data:image/png;base64,")) or address == "data:,":
                continue
            assert tag == "a" and address.startswith("./"), (tag, address)
            assert (folder / unquote(address)).exists(), address
    assert not re.search(r"@import|url\((?!#)", page.raw)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    for _, attributes in page.tags:
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids
    inside = [a["href"][1:] for a in page.all("a") if a.get("href", "").startswith("#")]
    assert inside[0] == "main" and set(inside) <= set(ids)
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(page.headings))
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(a.get("scope") in ("row", "col") for a in page.all("th"))
    assert all(a.get("alt") for a in page.all("img"))
    for attributes in page.all("svg"):
        assert attributes.get("aria-hidden") == "true" or attributes.get("role") == "img"
    assert len(page.raw.encode()) < 3_000_000


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("report") / "images", classes=3)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A finished run, not to be changed."""
    out = tmp_path_factory.mktemp("report-run") / "run"
    outcome = invoke("run", "--data", images, *TINY, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    return out


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "run"))


def cells(page: Page, caption: str) -> list[list[str]]:
    """The texts of a table's rows."""
    table = re.search(rf"<caption>{re.escape(caption)}.*?</table>", page.raw, re.S)
    assert table, caption
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr>.*?</tr>", table[0], re.S)
    ]
