"""Draws the pictures of docs/fused_path.md: `python docs/images/draw.py`.

Masks and orders of tiles are those of the code.
"""

from pathlib import Path

import numpy as np

from mta_jax.ops.masks import attention_mask, row_tap_mask
from mta_jax.ops.multi_token_attention.pallas_tpu.one_head.plan import causal_steps

# Each picture brings its background, so that it is legible whatever page it is on.
_STYLE = """
svg { font: 13px system-ui, sans-serif; }
.page { fill: #ffffff; } text { fill: #1f2328; }
.faint { fill: #57606a; } .line { stroke: #57606a; fill: none; }
.grid { fill: none; stroke: #c4cbd3; } .allowed { fill: #dbe7f3; stroke: #c4cbd3; }
.own { fill: #0072b2; } .own-light { fill: #8fc1e0; } .other { fill: #e69f00; }
.other-light { fill: #f6d591; } .band { fill: #d55e00; } .frame { fill: none; stroke: #1f2328; }
.on-own { fill: #ffffff; } .on-light { fill: #1f2328; }
@media (prefers-color-scheme: dark) {
.page { fill: #161b22; } text { fill: #e6edf3; }
.faint { fill: #9da7b3; } .line { stroke: #9da7b3; }
.grid { stroke: #3d444d; } .allowed { fill: #22384c; stroke: #3d444d; }
.own { fill: #3b9edb; } .own-light { fill: #245f86; } .other { fill: #e69f00; }
.other-light { fill: #7a5a17; } .band { fill: #e8763a; } .frame { stroke: #e6edf3; }
.on-own { fill: #0d1117; } .on-light { fill: #e6edf3; }
}
"""


class Picture:
    """An SVG file in the making; lengths are pixels."""

    def __init__(self, width: int, height: int, title: str):
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            f"<title>{title}</title>",
            f"<style>{_STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8" class="line"/></marker>'
            "</defs>",
            f'<rect class="page" width="{width}" height="{height}" rx="6"/>',
        ]

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A rectangle."""
        self._parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>'
        )

    def polygon(self, points: list[tuple[float, float]], kind: str) -> None:
        """A filled outline."""
        corners = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(f'<polygon class="{kind}" points="{corners}"/>')

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """One line of text, on its base line."""
        self._parts.append(
            f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{text}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, *, arrow: bool = False) -> None:
        """A straight line."""
        tip = ' marker-end="url(#tip)"' if arrow else ""
        self._parts.append(
            f'<line class="line" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"{tip}/>'
        )

    def svg(self) -> str:
        """The file's text."""
        return "\n".join([*self._parts, "</svg>", ""])


def _legend(picture: Picture, x: int, y: int, entries: list[tuple[str, list[str]]]) -> None:
    for kind, lines in entries:
        picture.box(x, y, 16, 16, kind)
        for number, line in enumerate(lines):
            picture.text(x + 24, y + 13 + 17 * number, line)
        y += 17 * len(lines) + 11


def taps() -> str:
    """Which logits one output of a 4 x 5 kernel reads, in a row of two documents."""
    length, cell, left, top = 12, 24, 100, 40
    segment_ids = np.repeat([[0, 1]], [5, 7], axis=1).reshape(1, length)
    allowed = np.asarray(
        attention_mask(length, length, is_causal=True, segment_ids=segment_ids)[0, 0]
    )
    row_taps = np.asarray(row_tap_mask(segment_ids, 4)[0])
    query, key = 7, 6
    picture = Picture(740, 350, "The taps of one output of the key-query convolution")
    for i in range(length):
        for j in range(length):
            kind = "allowed" if allowed[i, j] else "grid"
            picture.box(left + j * cell, top + i * cell, cell, cell, kind)
    for a in range(4):
        for b in range(5):
            i, j = query - 3 + a, key - 2 + b
            x, y = left + j * cell, top + i * cell
            if allowed[i, j]:
                picture.box(
                    x + 3, y + 3, cell - 6, cell - 6, "own" if row_taps[a, query] else "band"
                )
            else:
                picture.text(x + cell / 2, y + 17, "0", "faint", "middle")
    picture.box(left + (key - 2) * cell, top + (query - 3) * cell, 5 * cell, 4 * cell, "frame")
    x, y = left + (key + 0.5) * cell, top + (query + 0.5) * cell
    picture.text(x, y + 5, "i, j", "on-own", "middle")
    picture.text(left + length * cell / 2, top - 14, "keys", "faint", "middle")
    picture.text(left - 12, top + 2.6 * cell, "document 1", "faint", "end")
    picture.text(left - 12, top + 8.6 * cell, "document 2", "faint", "end")
    _legend(
        picture,
        left + length * cell + 30,
        top + 20,
        [
            ("allowed", ["a query may attend to this key"]),
            ("own", ["read by the output at (i, j)"]),
            (
                "band",
                ["a logit of document 1: allowed there,", "but not read by a row of document 2"],
            ),
            ("grid", ["0: masked before the convolution", "(a later key, or another document)"]),
        ],
    )
    return picture.svg()


def row_blocks() -> str:
    """A row block of `xla_chunked`, its halo and its keys."""
    block, blocks, halo, left, top = 46, 6, 14, 40, 40
    size = block * blocks
    picture = Picture(740, 350, "A block of rows, its halo, and the keys it reads")
    for first in range(0, blocks, 2):
        end = first + 2
        picture.box(left, top + first * block, end * block, 2 * block, "allowed")
    picture.polygon([(left, top), (left + size, top + size), (left, top + size)], "line")
    own = 3
    picture.box(left, top + own * block - halo, 4 * block, halo, "other-light")
    picture.box(left, top + own * block, 4 * block, block, "own-light")
    picture.text(left + 8, top + own * block - 3, "halo", "on-light")
    picture.text(left + 8, top + (own + 0.6) * block, "block", "on-light")
    picture.text(left + size / 2, top - 14, "keys", "faint", "middle")
    for number in range(3):
        x, y = left + (2 * number + 2) * block, top + (2 * number + 0.5) * block
        picture.text(x + 6, y, f"loop {number + 1}")
    x, y, width = 440, 54, 90
    steps = [
        (10, "logits, masked with 0"),
        (5, "convolved, mixed, softmax"),
        (0, "convolved, masked, mixed"),
        (0, "times values: the output"),
    ]
    for rows, label in steps:
        above = rows * 1.8
        picture.box(x, y + 18 - above, width, above, "other-light")
        picture.box(x, y + 18, width, 30, "own-light")
        picture.text(x + width + 12, y + 38 - above / 2, label)
        if label != steps[-1][1]:
            picture.line(x + width / 2, y + 50, x + width / 2, y + 64, arrow=True)
        y += 74
    picture.text(x - 8, 54 + 14, "10 rows", "faint", "end")
    picture.text(x - 8, 54 + 74 + 16, "5 rows", "faint", "end")
    return picture.svg()


def expanded_keys() -> str:
    """The convolution as a wider inner product, for a kernel of 3 queries x 3 keys."""
    picture = Picture(740, 300, "The convolution as an inner product of expanded queries and keys")
    width, height, top = 74, 26, 50
    names = ["q[i-2]", "q[i-1]", "q[i]"]
    picture.text(20, 30, "queries of three rows, side by side", "faint")
    for a, name in enumerate(names):
        picture.box(20 + a * (width + 2), top, width, height, "own-light")
        picture.text(20 + a * (width + 2) + width / 2, top + 18, name, "on-light", "middle")
    picture.text(262, top + 18, "= q\u0302[i], of size 3 H")
    picture.text(20, 116, "keys around j, weighted by the taps of each row of the kernel", "faint")
    for a in range(3):
        x = 20 + a * (width + 2)
        picture.box(x, 200, width, height, "other-light")
        picture.text(x + width / 2, 218, f"k\u0302[j, {a}]", "on-light", "middle")
    for b in range(3):
        x = 20 + b * (width + 2)
        picture.box(x, 132, width, height, "own-light")
        picture.text(x + width / 2, 150, f"k[j{('-1', '', '+1')[b]}]", "on-light", "middle")
        for a in range(3):
            picture.line(x + width / 2, 159, 20 + a * (width + 2) + width / 2, 198)
    picture.text(262, 184, "k\u0302[j, a] = \u03a3 w[a, b] k[j-1+b] over b")
    picture.text(262, 218, "= k\u0302[j], of size 3 H")
    total = "\u03a3 w[a, b] q[i-2+a] \u00b7 k[j-1+b] over a, b"
    picture.text(20, 264, f"q\u0302[i] \u00b7 k\u0302[j]  =  {total}")
    picture.text(20, 284, "= the convolved logit, where the causal mask cuts no tap off", "faint")
    return picture.svg()


def tiles() -> str:
    """Order of tiles of the forward and backward kernel, and the band."""
    blocks, tile, top = 4, 70, 60
    picture = Picture(740, 390, "Tiles of the two kernels, and the band below the diagonal")
    for left, title, outside in ((40, "forward", False), (400, "backward", True)):
        picture.text(left, 26, f"{title} kernel", "")
        picture.text(left + 2 * tile, top - 12, "keys", "faint", "middle")
        order = causal_steps(blocks, keys_outside=outside).T
        for i, j in order:
            kind = "allowed" if i - j > 1 else "other-light" if i == j else "own-light"
            picture.box(left + j * tile, top + i * tile, tile, tile, kind)
            picture.box(left + j * tile, top + i * tile, tile, tile, "grid")
        end = top + blocks * tile
        right, wide = left + blocks * tile, 12
        picture.polygon(
            [(left, top), (right, end), (right - wide, end), (left, top + wide)], "band"
        )
        for number, (i, j) in enumerate(order, start=1):
            x = left + (j + (0.25 if i == j else 0.5)) * tile
            y = top + (i + (0.8 if i == j else 0.5)) * tile
            picture.text(x, y + 5, str(number), "on-light", "middle")
    for x, kind, label in (
        (40, "other-light", "on the diagonal"),
        (186, "own-light", "its corner meets the band"),
        (400, "allowed", "matrix products alone"),
        (580, "band", "the band"),
    ):
        picture.box(x, 356, 16, 16, kind)
        picture.text(x + 24, 369, label)
    return picture.svg()


PICTURES = {
    "taps.svg": taps,
    "row_blocks.svg": row_blocks,
    "expanded_keys.svg": expanded_keys,
    "tiles.svg": tiles,
}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (Path(__file__).parent / name).write_text(draw(), encoding="utf-8")
