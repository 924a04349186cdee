"""A page of HTML as tests read it."""

import html.parser


class Page(html.parser.HTMLParser):
    """Checks the nesting of tags, and collects text and links."""

    VOID = ("meta", "img", "br", "wbr", "input", "!doctype")

    def __init__(self, path):
        super().__init__()
        self.open, self.text, self.links = [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
