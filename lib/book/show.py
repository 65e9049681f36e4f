"""Pictures and tables that show themselves in a notebook, on a phone and to who cannot see."""

import base64
from html import escape
from io import BytesIO

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from lib.files import replacing


class Shown:
    """What shows itself in a notebook as the given {media type: data}."""

    def __init__(self, **bundle):
        self.bundle = {name.replace("_", "/"): data for name, data in bundle.items()}

    def _repr_mimebundle_(self, include=None, exclude=None):
        return self.bundle

    def save(self, path):
        """Write it as a PNG file."""
        with replacing(path) as temporary:
            temporary.write_bytes(base64.b64decode(self.bundle["image/png"]))


def pictures(images, *, description, titles=None, rows=None, columns=None, scale=None):
    """Images `[n, c, h, w]` in [0, 1] (c is 1 or 3), a pixel `scale` CSS pixels wide at most.

    Without `scale` an image is about 80 CSS pixels wide. `titles` names each image. With `rows`,
    images are a matrix with a line for each of these labels, and `titles` may name its columns
    only; else `columns` limits the images in a line.
    """
    images = np.asarray(images, dtype=float)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be [n, 1 or 3, h, w], got {list(images.shape)}")
    if not ((images >= 0) & (images <= 1)).all():
        raise ValueError("images must lie in [0, 1]")
    n = len(images)
    if rows is not None and (not rows or n % len(rows)):
        raise ValueError(f"{n} images do not fill {len(rows)} rows")
    columns = n // len(rows) if rows else min(columns or n, n)
    heads = rows is not None and titles is not None and len(titles) == columns != n
    if titles is not None and len(titles) != n and not heads:
        raise ValueError(f"{len(titles)} titles for {n} images")
    titles = [str(title) for title in titles or [""] * (columns if heads else n)]
    rows = [str(row) for row in rows or []]
    levels = (images * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    tiles = [Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
             for image in levels]  # fmt: skip
    names = [_name(i, titles, rows, columns, heads) or sentence(description) for i in range(n)]

    scale = scale or max(1, round(80 / images.shape[3]))
    width = images.shape[3] * scale
    captions = [""] * n if heads else titles
    cells = ["<b></b>", *(f"<b>{escape(title)}</b>" for title in titles)] if heads else []
    for i, (tile, name, caption) in enumerate(zip(tiles, names, captions, strict=True)):
        if rows and i % columns == 0:
            cells.append(f"<b>{escape(rows[i // columns])}</b>")
        below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        cells.append(
            f'<figure style="margin:0;padding:0"><img alt="{escape(name)}" class="dark-light" '
            f'src="data:image/png;base64,{in_base64(_png(tile))}" '
            f'style="width:100%;padding:0;image-rendering:pixelated">{below}</figure>'
        )
    if rows:  # a matrix keeps its lines: it shrinks, as far as captions are read, then scrolls
        least = min(width, 80 if any(captions) else 40)
        grid = f"max-content repeat({columns}, minmax({least}px, {width}px))"
        layout = f"grid-template-columns:{grid};align-items:center"
    else:  # other pictures wrap
        grid = f"repeat(auto-fill, minmax(min({width}px, 45%), {width}px))"
        layout = f"grid-template-columns:{grid};max-width:{columns * (width + 8)}px"
    html = (
        f'<div class="pictures" role="group" tabindex="0" aria-label="{escape(description)}" '
        f'style="display:grid;{layout};gap:8px;overflow-x:auto;text-align:center">'
        f"{''.join(cells)}</div>"
    )
    sheet = _png(_sheet(tiles, titles, rows, columns, heads, scale))
    return Shown(text_html=html, image_png=in_base64(sheet), text_plain=description)


def table(frame, *, caption, formats=None, index=False):
    """A table with its caption. `formats`: {column: format specification or function}.

    Without one, floats show four significant digits; what is missing is a dash.
    """
    frame = frame.reset_index() if index else frame
    formats = formats or {}
    unknown = set(formats) - set(frame.columns)
    if unknown:
        raise ValueError(f"formats for columns that are not there: {', '.join(sorted(unknown))}")

    def cell(name, value):
        if pd.api.types.is_scalar(value) and pd.isna(value):
            return "–"
        how = formats.get(name, ".4g" if isinstance(value, float) else "")
        return how(value) if callable(how) else f"{value:{how}}"

    text = pd.DataFrame({name: [cell(name, v) for v in frame[name]] for name in frame.columns})
    numeric = frame.select_dtypes("number").columns
    right = {name: ' style="text-align:right;white-space:nowrap"' if name in numeric else ""
             for name in frame.columns}  # fmt: skip
    head = "".join(f'<th scope="col"{right[n]}>{escape(str(n))}</th>' for n in frame.columns)
    body = "".join(
        "<tr>" + "".join(f"<td{right[n]}>{escape(row[n])}</td>" for n in frame.columns) + "</tr>"
        for row in text.to_dict("records")
    )
    html = (
        f'<div class="records" role="region" tabindex="0" aria-label="{escape(caption)}" '
        f'style="overflow-x:auto"><table class="table"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
    return Shown(text_html=html, text_plain=f"{caption}\n{text.to_string(index=False)}")


def finite(format):
    """A format for `table` that shows what is infinite as missing: a single seed's interval."""
    return lambda value: f"{value:{format}}" if np.isfinite(value) else "–"


def sentence(description):
    if not description or not description.strip():
        raise ValueError("a figure needs a description: one sentence that says what it shows")
    return description.strip()


def _name(i, titles, rows, columns, heads):
    title = titles[i % columns] if heads else titles[i]
    return ", ".join(part for part in [rows[i // columns] if rows else "", title] if part)


def _sheet(tiles, titles, rows, columns, heads, scale):
    """All images on one white picture, for viewers without HTML."""
    font = ImageFont.load_default(12)
    w, h = (side * scale for side in tiles[0].size)
    left = 8 + max((int(font.getlength(row)) + 8 for row in rows), default=0)
    top = 24 if heads else 8
    step = h + (8 if heads or not any(titles) else 26)
    lines = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (left + columns * (w + 8), top + lines * step), "white")
    draw = ImageDraw.Draw(sheet)
    for i, tile in enumerate(tiles):
        x, y = left + i % columns * (w + 8), top + i // columns * step
        sheet.paste(tile.resize((w, h), Image.Resampling.NEAREST), (x, y))
        if rows and i % columns == 0:
            draw.text((8, y + h // 2 - 6), rows[i // columns], "black", font)
        if not heads:
            draw.text((x, y + h + 4), titles[i], "black", font)
        elif i < columns:
            draw.text((x, 6), titles[i], "black", font)
    return sheet


def _png(image):
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def in_base64(data):
    return base64.b64encode(data).decode()
