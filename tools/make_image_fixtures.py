#!/usr/bin/python3
"""Makes tests/data/images: small pictures of every kind that `image_style prepare` reads, and Pillow's versions.

expected.safetensors holds U8 tensors (16, 16, 3), NAME/cover and NAME/pad: Pillow's exif_transpose, alpha on white,
then ImageOps.fit or pad with LANCZOS. broken/ holds what must be refused. Needs Debian's python3-pil and python3-numpy.
Run from the repository's root: tools/make_image_fixtures.py
"""
import json
import pathlib
import shutil
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageOps

OUT = pathlib.Path("tests/data/images")
SIZE = 16
ORIENTATION = 0x0112


def scene(width, height):
    """Gradients and hard edges, different in every corner, with coverage that fades to the right."""
    y, x = np.mgrid[0:height, 0:width] / np.array([[[height]], [[width]]])
    rgb = np.stack([255 * x, 255 * y, 128 + 100 * np.sin(9 * (x + y))], axis=-1)
    alpha = 255 * np.clip(1.6 - 1.6 * x, 0, 1)
    picture = Image.fromarray(np.dstack([rgb, alpha]).round().astype(np.uint8), "RGBA")
    brush = ImageDraw.Draw(picture)
    brush.rectangle([2, 2, width // 3, height // 4], fill=(220, 30, 30, 255))
    brush.ellipse([width // 2, height // 2, width - 4, height - 4], fill=(30, 60, 200, 255))
    return picture


def png_chunks(*chunks):
    file = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        file += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return file


def png16(values):
    """A 16-bit PNG, which Pillow writes in grey alone: (H, W, 1 or 3)."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if channels == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_chunks((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def upright_on_white(picture):
    rgba = ImageOps.exif_transpose(picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def good():
    """{file name: what it shows, on white}."""
    shown = {}

    def save(name, picture, **options):
        picture.save(OUT / name, **options)
        with Image.open(OUT / name) as opened:
            opened.load()
            shown[name] = upright_on_white(opened)

    rgba = scene(40, 56)
    rgb = rgba.convert("RGB")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        save(f"turned_{orientation}.jpg", scene(36, 24).convert("RGB"), quality=90, exif=exif)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save("turned.png", rgb, exif=exif)
    save("turned.webp", rgb, exif=exif, lossless=True)
    save("photo.jpg", rgb, quality=85)
    save("progressive.jpg", scene(90, 41).convert("RGB"), quality=85, progressive=True)
    save("grey.jpg", rgb.convert("L"), quality=90)
    save("cmyk.jpg", rgb.convert("CMYK"), quality=95)
    save("alpha.png", rgba)
    save("grey_alpha.png", rgba.convert("LA"))
    save("palette.png", rgb.quantize(13), transparency=3)
    save("one_bit.png", rgb.convert("1"))
    save("tiny.png", scene(9, 7))
    save("rgb.bmp", rgb)
    save("palette.bmp", rgb.quantize(200))
    save("one_bit.bmp", rgb.convert("1"))
    save("still.gif", rgb.quantize(64))
    save("clear.gif", rgb.quantize(16), transparency=5)
    save("moving.gif", rgb, save_all=True, append_images=[ImageOps.invert(rgb)], duration=50)
    save("lossy.webp", rgb, quality=80)
    save("alpha.webp", rgba, lossless=True)
    save("moving.webp", rgb, save_all=True, append_images=[ImageOps.invert(rgb)], duration=50, lossless=True)

    deep = np.asarray(rgb).astype(np.uint16) * 257
    (OUT / "deep.png").write_bytes(png16(deep))
    (OUT / "deep_grey.png").write_bytes(png16(deep[..., :1]))
    shown["deep.png"] = rgb
    shown["deep_grey.png"] = rgb.getchannel("R").convert("RGB")

    (OUT / "drawing.svg").write_text("""<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 64 32">
  <rect x="8" y="8" width="16" height="16" fill="#dc1e1e"/>
  <g fill-opacity="0.5"><path d="M32 4h16v20h-16z" fill="#0000ff"/></g>
</svg>
""")
    drawing = Image.new("RGB", (512, 256), "white")
    brush = ImageDraw.Draw(drawing)
    brush.rectangle([64, 64, 191, 191], fill="#dc1e1e")
    brush.rectangle([256, 32, 383, 191], fill=(127, 127, 255))
    shown["drawing.svg"] = drawing
    return shown


def broken():
    folder = OUT / "broken"
    folder.mkdir()
    for name in ("alpha.png", "photo.jpg", "progressive.jpg", "rgb.bmp", "still.gif", "lossy.webp", "drawing.svg"):
        whole = (OUT / name).read_bytes()
        (folder / f"cut_{name}").write_bytes(whole[:len(whole) * 6 // 10])
    huge = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    (folder / "huge.png").write_bytes(png_chunks((b"IHDR", huge), (b"IDAT", pixels), (b"IEND", b"")))
    whole = bytearray((OUT / "photo.jpg").read_bytes())
    frame = whole.index(b"\xff\xc0")
    whole[frame + 5:frame + 9] = struct.pack(">HH", 65000, 65000)
    (folder / "huge.jpg").write_bytes(whole)
    whole = bytearray((OUT / "rgb.bmp").read_bytes())
    whole[18:26] = struct.pack("<ii", 40000, 40000)
    (folder / "huge.bmp").write_bytes(whole)
    whole = bytearray((OUT / "still.gif").read_bytes())
    whole[6:10] = struct.pack("<HH", 65000, 65000)
    (folder / "huge.gif").write_bytes(whole)
    whole = bytearray((OUT / "alpha.webp").read_bytes())
    at = whole.index(b"VP8L") + 9
    whole[at:at + 4] = struct.pack("<I", (16383 - 1) | (16383 - 1) << 14)
    (folder / "huge.webp").write_bytes(whole)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture\n")
    svg = '<svg xmlns="http://www.w3.org/2000/svg"'
    (folder / "embeds.svg").write_text(f'{svg} width="8" height="8"><image href="data:image/png;base64,AA=="/></svg>\n')
    (folder / "no_size.svg").write_text(f'{svg} width="0" height="8"></svg>\n')


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    header, data = {}, b""
    for name, picture in sorted(good().items()):
        for fit, made in (("cover", ImageOps.fit(picture, (SIZE, SIZE), Image.Resampling.LANCZOS)),
                          ("pad", ImageOps.pad(picture, (SIZE, SIZE), Image.Resampling.LANCZOS, color="white"))):
            header[f"{name}/{fit}"] = {"dtype": "U8", "shape": [SIZE, SIZE, 3],
                                       "data_offsets": [len(data), len(data) + SIZE * SIZE * 3]}
            data += made.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (OUT / "expected.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    broken()


if __name__ == "__main__":
    main()
