"""Checks of a page without a browser."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "use"}


class Checker(HTMLParser):
    """Collects text, ids and whatever would leave the page, and checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.open, self.external, self.ids, self.uses, self.words = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self._collect(tag, dict(attributes))

    def handle_startendtag(self, tag, attributes):
        self._collect(tag, dict(attributes))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def _collect(self, tag, attributes):
        self.ids += [attributes["id"]] if "id" in attributes else []
        target = attributes.get("href", "")
        self.uses += [target[1:]] if target.startswith("#") else []
        self.external += [target] if target and not target.startswith("#") else []
        self.external += [tag] if tag in {"link", "img", "iframe", "object", "embed", "base"} else []
        self.external += [name for name in attributes if name.startswith(("on", "src"))]


def check_page(text):
    """The words of a page, once it is found to be whole and to need nothing else."""
    checked = Checker(text)
    assert checked.open == []
    assert checked.external == []
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", text)
    assert len(set(checked.ids)) == len(checked.ids)
    assert set(checked.uses) | set(re.findall(r"url\(#([^)]*)\)", text)) <= set(checked.ids)
    return " ".join(checked.words)
