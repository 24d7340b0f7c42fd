"""Draws the pictures of docs/concepts.md.

    python docs/plot_concepts.py          # a second; needs nothing

Boxes and arrows as plain SVG, so that a change of a word is a change of a line.
"""

import html
import pathlib

OUT = pathlib.Path(__file__).parent / "images"
INK, SOFT, BLUE, GREEN, SAND = "#1f2933", "#9aa5b1", "#dcebfa", "#dff3e4", "#fbf1d9"


class Picture:
    """An SVG of boxes, arrows and words; places and lengths in pixels."""

    def __init__(self, width: int, height: int, title: str):
        self.size, self.parts = (width, height), [f"<title>{title}</title>"]

    def box(self, x: int, y: int, width: int, height: int, *lines: str,
            fill: str = BLUE, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="{height}" '
                          f'rx="6" fill="{fill}" stroke="{INK}"{dash}/>')
        top = y + height / 2 - 8 * (len(lines) - 1)
        for number, line in enumerate(lines):
            self.words(x + width / 2, top + 16 * number + 4, line, bold=not number)

    def words(self, x: float, y: float, text: str, *, bold: bool = False,
              colour: str = INK, anchor: str = "middle") -> None:
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" '
                          f'fill="{colour}"{weight}>{html.escape(text)}</text>')

    def arrow(self, *points: tuple[int, int], dashed: bool = False) -> None:
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        path = " ".join(f"{x},{y}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{INK}" '
                          f'stroke-width="1.5" marker-end="url(#tip)"{dash}/>')

    def line(self, first: tuple[int, int], last: tuple[int, int],
             colour: str = SOFT, width: float = 1.5) -> None:
        self.parts.append(f'<line x1="{first[0]}" y1="{first[1]}" x2="{last[0]}" '
                          f'y2="{last[1]}" stroke="{colour}" stroke-width="{width}"/>')

    def save(self, name: str) -> None:
        width, height = self.size
        body = "\n".join(self.parts)
        (OUT / name).write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" font-family="sans-serif" '
            'font-size="13">\n<defs><marker id="tip" viewBox="0 0 8 8" refX="7" '
            'refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n',
            encoding="utf-8")


def draw_path() -> None:
    """From a log to lists: the steps and the artefacts between them."""
    it = Picture(760, 250, "From a behaviour log to a served recommender")
    it.box(10, 30, 100, 50, "items", "text, pictures", fill=SAND)
    it.box(10, 140, 100, 50, "log", "who met what", fill=SAND)
    it.box(160, 30, 110, 50, "tokenize", "semantic IDs")
    it.box(160, 140, 110, 50, "prepare", "data set")
    it.box(320, 85, 110, 50, "train", "generator")
    it.box(480, 140, 110, 50, "align", "by reward")
    it.box(480, 30, 110, 50, "think", "instructions", dashed=True)
    it.box(640, 85, 110, 50, "serve", "beam search", fill=GREEN)
    it.arrow((110, 55), (158, 55))
    it.arrow((110, 165), (158, 165))
    it.arrow((215, 140), (215, 82), dashed=True)
    it.arrow((270, 55), (295, 55), (295, 100), (318, 100))
    it.arrow((270, 165), (295, 165), (295, 120), (318, 120))
    it.arrow((430, 110), (638, 110))
    it.arrow((375, 135), (375, 165), (478, 165))
    it.arrow((590, 165), (695, 165), (695, 137))
    it.arrow((590, 55), (695, 55), (695, 83), dashed=True)
    it.words(380, 225, "Every arrow is a file in one work directory; evaluate, report "
             "and abtest read them too.", colour="#52606d")
    it.save("concepts_path.svg")


def draw_trie() -> None:
    """A search of two beams over a trie of semantic IDs."""
    it = Picture(840, 300, "Beam search over a trie of semantic IDs")
    levels = [("", [(380, 40)]), ("first code", [(180, 110), (380, 110), (580, 110)]),
              ("second code", [(120, 190), (240, 190), (380, 190), (520, 190),
                               (640, 190)]),
              ("item", [(80, 265), (160, 265), (240, 265), (345, 265), (415, 265),
                        (520, 265), (640, 265)])]
    edges = [[(0, 0), (0, 1), (0, 2)], [(0, 0), (0, 1), (1, 2), (2, 3), (2, 4)],
             [(0, 0), (0, 1), (1, 2), (2, 3), (2, 4), (3, 5), (4, 6)]]
    kept = [{(0, 0), (0, 1)}, {(0, 1), (1, 2)}, {(1, 2), (2, 3)}]
    for level, pairs in enumerate(edges):
        for pair in pairs:
            above, below = levels[level][1][pair[0]], levels[level + 1][1][pair[1]]
            best = pair in kept[level]
            it.line((above[0], above[1] + 14), (below[0], below[1] - 14),
                    INK if best else SOFT, 3 if best else 1.2)
    names = [["BOS"], ["17", "22", "30"], ["17-4", "17-9", "22-7", "30-1", "30-8"],
             list("abcdefg")]
    ways = [{0}, {0, 1}, {1, 2}, {2, 3}]
    for level, (_, places) in enumerate(levels):
        for number, (x, y) in enumerate(places):
            it.box(x - 30, y - 14, 60, 28, names[level][number],
                   fill=GREEN if number in ways[level] else BLUE)
    for (name, _), y in zip(levels, (40, 110, 190, 265), strict=True):
        it.words(700, y + 4, name, colour="#52606d", anchor="start")
    it.save("concepts_trie.svg")


def draw_network() -> None:
    """What the encoder reads and the decoder writes."""
    it = Picture(760, 260, "The generator: history in, codes out")
    for number, name in enumerate(("profile", "item 1", "item 2", "…", "item L",
                                   "found by I_r")):
        it.box(20 + 62 * number, 190, 58 if number < 5 else 90, 36, name, fill=SAND,
               dashed=number == 5)
    it.box(20, 100, 400, 50, "encoder", "one position for each item")
    it.box(470, 100, 270, 50, "decoder", "the same layers train, draw and serve")
    for number, name in enumerate(("BOS", "I_s", "I_r", "s1", "s2")):
        it.box(470 + 55 * number, 190, 50, 36, name,
               fill=GREEN if name.startswith("I") else SAND)
    for number, name in enumerate(("s1", "s2", "s3")):
        it.box(580 + 55 * number, 25, 50, 36, name, fill=GREEN)
    it.arrow((220, 188), (220, 152))
    it.arrow((605, 188), (605, 152))
    it.arrow((420, 125), (468, 125))
    it.arrow((660, 100), (660, 63))
    it.words(445, 90, "cross-attention", colour="#52606d")
    it.words(190, 250, "what the person did", colour="#52606d")
    it.words(605, 250, "what this request is about, and the codes so far",
             colour="#52606d")
    it.save("concepts_network.svg")


def draw_clocks() -> None:
    """What happens near-line and what while a person waits."""
    it = Picture(760, 230, "Near-line reasoning and online answers")
    it.box(20, 40, 130, 50, "what changed", "of users, 5 minutes", fill=SAND)
    it.box(190, 40, 130, 50, "language model", "or rules")
    it.box(360, 40, 130, 50, "gate", "what is let through")
    it.box(560, 40, 160, 50, "instruction store", "vectors by user", fill=GREEN)
    it.box(20, 150, 130, 50, "request", fill=SAND)
    it.box(190, 150, 300, 50, "one compiled search", "no language model is asked")
    it.box(560, 150, 160, 50, "answer", fill=GREEN)
    for first, last in ((150, 188), (320, 358), (490, 558)):
        it.arrow((first, 65), (last, 65))
    it.arrow((150, 175), (188, 175))
    it.arrow((490, 175), (558, 175))
    it.arrow((640, 90), (640, 120), (340, 120), (340, 148))
    it.words(20, 25, "near-line: minutes", bold=True, anchor="start")
    it.words(20, 135, "online: milliseconds", bold=True, anchor="start")
    it.save("concepts_clocks.svg")


def draw_align() -> None:
    """One experience of the aligner."""
    it = Picture(760, 210, "One experience of the aligner")
    it.box(20, 70, 120, 50, "requests", "of the log", fill=SAND)
    it.box(180, 70, 140, 50, "draw a group", "by the serving search")
    it.box(360, 20, 140, 50, "rewards", "codes, ranker, …")
    it.box(360, 120, 140, 50, "judge", "offline, a share", dashed=True)
    it.box(540, 70, 100, 50, "advantage", "in the group")
    it.box(660, 70, 80, 50, "update", fill=GREEN)
    it.arrow((140, 95), (178, 95))
    it.arrow((320, 85), (340, 85), (340, 45), (358, 45))
    it.arrow((320, 105), (340, 105), (340, 145), (358, 145), dashed=True)
    it.arrow((500, 45), (520, 45), (520, 85), (538, 85))
    it.arrow((500, 145), (520, 145), (520, 105), (538, 105), dashed=True)
    it.arrow((640, 95), (658, 95))
    it.arrow((700, 120), (700, 195), (250, 195), (250, 122))
    it.words(470, 188, "new parameters", colour="#52606d")
    it.save("concepts_align.svg")


if __name__ == "__main__":
    draw_path()
    draw_trie()
    draw_network()
    draw_clocks()
    draw_align()
