"""tests/cases/image.py: the cases of pictures and captions through `image_style prepare`, and what it says of them.
usage: image.py IMAGE_STYLE ROOT"""
import json, shutil, struct, sys, tempfile, zlib
from pathlib import Path

from programs import runner, says

run, root = runner(Path(sys.argv[1])), Path(sys.argv[2])
cases = root / "tests/cases/21-captions"
scratch = Path(tempfile.mkdtemp(prefix="ftlib-image-"))
count = 0


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(colour, side=40, before=b"", deep=False):
    """A PNG file with a diagonal line on one colour; `before`: chunks before the pixels."""
    def pixel(x, y):
        values = (0, 0, 0) if x == y else colour
        return b"".join(struct.pack(">H", v * 257) for v in values) if deep else bytes(values)
    rows = b"".join(b"\0" + b"".join(pixel(x, y) for x in range(side)) for y in range(side))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 16 if deep else 8, 2, 0, 0, 0)) +
            before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def gif(frames):
    """A GIF file of 2 x 2 pixels."""
    frame = b"\x2c\0\0\0\0\2\0\2\0\0\2\3\x84\x1d\x05\0"  # one code size, one block
    return b"GIF89a\2\0\2\0\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def prepare(*folders_and_options, code=0):
    """What is said, and the records, by file."""
    global count
    count += 1
    out = scratch / f"out{count}"
    said = run("prepare", *folders_and_options, "--out", out, "--threads", 1, code=code)
    if code:
        return said, None
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert all(record["caption"].strip() for record in records), records
    return said, {record["file"]: record for record in records}




def put(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


RED, BLUE, GREEN = (200, 30, 30), (30, 60, 200), (30, 160, 60)


def sidecars():
    said, records = prepare(cases / "A")
    captions = {file: record["caption"] for file, record in records.items()}
    assert captions == {"A/bom.png": "a red cup", "A/crlf.png": "a blue cup on a table", "A/emoji.png": "cup \u2615\ufe0f \ucef5",
                        "A/multi.png": "tag1, tag2, tag3 second para", "A/nbsp.png": "cup"}, captions
    says(said, "latin1.png: its caption file latin1.txt holds not UTF-8 at byte 14", "iconv -f WINDOWS-1252",
         "utf16.png: its caption file utf16.txt is UTF-16LE, by its byte-order mark", "iconv -f UTF-16",
         "nul.png: its caption file nul.txt", "blank.png: its caption file blank.txt is empty",
         "empty.png: its caption file empty.txt is empty", "nosidecar.png: has no caption file beside it",
         "left out in all: 3 captions that cannot be read, 3 pictures without words")
    said, records = prepare(cases / "B")
    assert [r["caption"] for r in records.values()] == ["a red cup", "a blue hat", "a green tree"]
    says(said, "captions from the files beside them", '(train): ', "'a red cup'")
    _, records = prepare(cases / "S")
    assert {f: r["caption"] for f, r in records.items()} == {f"S/A{i}.PNG": f"caption {i}" for i in range(3)}
    # Other habits: the picture's whole name, JSON, both endings, files of no picture.
    others = put(scratch / "others", {
        "a.png": png(RED), "a.png.txt": "one", "b.png": png(BLUE), "b.json": '{"caption": "two", "width": 3}',
        "c.png": png(GREEN), "c.txt": "three", "c.caption": "drei", "d.png": png((9, 9, 90)), "d.json": "[]",
        "readme.txt": "about", "E.png": png((90, 9, 90)), "e.Txt": "five"})
    said, records = prepare(others)
    assert {f[7:]: r["caption"] for f, r in records.items()} == {"a.png": "one", "b.png": "two", "c.png": "three",
                                                                 "E.png": "five"}, records
    says(said, "1 pictures have several caption files, of which the first is read: others/c.png: c.txt, c.caption",
         "d.png: its caption file d.json", "1 caption files are beside no picture: readme.txt")


def imagefolder():
    said, records = prepare(cases / "E")
    assert {f: (r["caption"], r["split"]) for f, r in records.items()} == {
        f"E/{split}/00{i}.png": (f"{split} caption {i}", split) for split in ("train", "test") for i in range(3)}, records
    says(said, "metadata.csv: names 3 pictures; the words are 'text'", "splits are those of the folders", "train 3, valid 0, test 3")
    said, again = prepare(cases / "E/train", cases / "E/test")  # each given by itself
    assert [r["split"] for r in again.values()] == ["train"] * 3 + ["test"] * 3
    sets = put(scratch / "sets", {
        "data/train/a.png": png(RED), "data/train/b.png": png(GREEN), "data/validation/c.png": png(BLUE),
        "data/Test/d.png": png((9, 9, 90)), "data/e.png": png((90, 9, 9)), "data/metadata.jsonl": "".join(
            json.dumps(row) + "\n" for row in (
                {"file_name": "train/a.png", "prompt": "a", "seed": 1}, {"file_name": "train/b.png", "text": "b"},
                {"file_name": "validation/c.png", "text": "c"}, {"file_name": "Test/d.png", "text": "d", "split": "dev"},
                {"file_name": "e.png", "text": "e"}))})
    said, records = prepare(sets)
    assert [r["split"] for r in records.values()] == ["train", "train", "valid", "valid", "train"], records
    says(said, "the words are 'text' where a row has it, else prompt", "not read: seed", "1 pictures have none, and are trained")
    names = put(scratch / "names", {"train/red cup.png": png(RED), "train/blue cup.png": png(BLUE), "dev/green cup.png": png(GREEN)})
    assert [r["split"] for r in prepare(names)[1].values()] == ["valid", "train", "train"]
    (names / "dev/green cup.png").unlink()
    says(prepare(names)[0], "all pictures lie in folders to train; what is held out is chosen by caption")


def metadata():
    said, records = prepare(cases / "O")
    assert {f: r["caption"] for f, r in records.items()} == {"O/2.png": "quoted, ok", "O/3.png": 'it is "quoted" inside'}
    says(said, "metadata.csv:2: has 3 fields, the first row 2: a text with a ',' in it stands in quotation marks",
         "0.png: no usable row of the metadata names it", "1.png: has no words in metadata.csv:3")
    pictures = {"1.png": png(RED), "2.png": png(BLUE), "3.png": png(GREEN)}
    excel = put(scratch / "excel", pictures | {"metadata.csv": b"\xef\xbb\xbfsep=;\r\nfile_name;text;;\r\n1.png;one, two;;\r\n2.png;three;;\r\n"})
    said, records = prepare(excel)
    assert [r["caption"] for r in records.values()] == ["one, two", "three"]
    says(said, "fields end at ';'", "left out: " + str(excel / "3.png"), "1 pictures that the metadata do not name")
    for name, text, why in (("nofile", "name,text\n1.png,a\n", "no column of the first row is named file_name; its columns are name, text"),
                            ("nowords", "file_name,label\n1.png,3\n", "is named text, caption, prompt or description; its columns are file_name, label")):
        says(prepare(put(scratch / name, pictures | {"metadata.csv": text}), code=2)[0], why, "no picture can be used")
    utf16 = put(scratch / "utf16", pictures | {"metadata.csv": "file_name,text\n1.png,caf\u00e9\n2.png,b\n".encode("utf-16")})
    assert prepare(utf16)[1]["utf16/1.png"]["caption"] == "caf\u00e9"
    latin = put(scratch / "latin", pictures | {"metadata.csv": "file_name,text\n1.png,caf\u00e9\n2.png,b\n3.png,c\n".encode("latin-1")})
    says(prepare(latin)[0], "metadata.csv:2: not UTF-8 at byte", "iconv -f WINDOWS-1252")
    both = put(scratch / "both", pictures | {"metadata.csv": "file_name,text\n1.png,a\n", "metadata.jsonl":
                                              '{"file_name": "1.png", "text": "x"}\n{"file_name": "2.png", "text": "y"}\n',
                                              "1.txt": "not this one"})
    said, records = prepare(both)
    assert [r["caption"] for r in records.values()] == ["x", "y"]
    says(said, "metadata.csv is not read", "1 pictures have a caption file beside them as well, which is not read")


def kinds():
    said, records = prepare(cases / "T")
    assert set(records) == {"T/x0.png", "T/x1.png", "T/x2.png", "T/y.jfif"}, records
    says(said, "T/z: is PNG, and its name does not end so (rename it to z.png)",
         "left out in all: 1 files that are pictures, by names that say otherwise")
    jpeg = (cases / "T/y.jfif").read_bytes()
    icc = b"\xff\xe2" + struct.pack(">H", 2 + 14 + 20) + b"ICC_PROFILE\0\1\1" + b"Display P3          "
    srgb = b"\xff\xe2" + struct.pack(">H", 2 + 14 + 20) + b"ICC_PROFILE\0\1\1" + b"sRGB IEC61966-2.1   "
    kept = put(scratch / "kept", {
        "apple.JPE": jpeg, "pear.png": png(RED, deep=True), "plum.jpg": png(BLUE), "fig.PNG": png(GREEN),
        "wide.jpg": jpeg[:2] + icc + jpeg[2:], "usual.jpg": jpeg[:2] + srgb + jpeg[2:], "moves.gif": gif(2), "still.gif": gif(1),
        "stops.png": png((9, 9, 90), before=chunk(b"acTL", bytes(8))), "white.png": png((0, 0, 0)),
        "notes.pdf": "%PDF", "Thumbs.db": "x", ".hidden.png": png(RED), "clip.mp4": "x", "more.mp4": "x", "LICENSE": "x"})
    said, records = prepare(kept, "--caption-from", "names")
    assert len(records) == 10 and records["kept/pear.png"]["caption"] == "pear", records
    says(said, "2 animations, of which the first frame is taken: kept/moves.gif; kept/stops.png",
         "1 with a colour profile other than sRGB's, which is not applied: kept/wide.jpg", "of one colour alone: ", "kept/white.png",
         "5 other files are passed over: 1 .db, 2 .mp4, 1 .pdf, 1 no ending", "pairs of the same picture: ")
    broken = put(scratch / "broken", {
        "a.png": png(RED), "b.png": png(BLUE), "empty.png": b"", "page.jpg": "<!DOCTYPE html><html>", "photo.jpg": b"\0\0\0\x18ftypheic",
        "scan.tif": b"II*\0", "old.tga": bytes(18), "pointer.png": "version https://git-lfs.github.com/spec/v1\n", "cut.png": png(GREEN)[:90],
        "a copy.avif": b"\0\0\0\x1cftypavif"})
    (broken / "gone.png").symlink_to("nowhere.png")
    (scratch / "linked").mkdir()
    (broken / "more").symlink_to(scratch / "linked")
    said, records = prepare(broken, "--caption-from", "names")
    assert set(records) == {"broken/a.png", "broken/b.png"}, records
    says(said, "empty.png: is empty", "page.jpg: is a web page, which is not read", "photo.jpg: is HEIC, which is not read (make it a PNG",
         "scan.tif: is TIFF, which is not read", "old.tga: is none of PNG, JPEG", "pointer.png: is a Git LFS pointer", "cut.png: PNG: ",
         "a copy.avif: is AVIF", "gone.png: is no file, or a link to none", "left out in all: 9 pictures that cannot be read",
         "1 links to folders are not followed")
    says(run("prepare", broken, "--caption-from", "names", "--strict", "--out", scratch / "no", code=2), "--strict")


def names():
    camera = put(scratch / "camera", {f"IMG_{i:04}.jpg": png((i * 40, 9, 9)) for i in range(4)})
    says(prepare(camera, code=2)[0], "IMG_0000.jpg: its name does not say what it shows", "4 pictures without words",
         "--caption-from names takes names as they are")
    assert len(prepare(camera, "--caption-from", "names")[1]) == 4
    put(camera, {"red cup.png": png(GREEN), "blue cup-2.png": png(BLUE), "3f2a90bc.png": png(RED)})
    said, records = prepare(camera)
    assert [r["caption"] for r in records.values()] == ["blue cup", "red cup"], records


def leaks():
    same = put(scratch / "same", {"train/cup.png": png(RED), "train/hat.png": png(BLUE), "test/mug.png": png(RED)})
    says(prepare(same)[0], "1 pairs of the same picture", "1 of these pairs are trained and held out: same/test/mug.png and same/train/cup.png")


def outputs():
    mine = put(scratch / "mine", {"red cup.png": png(RED), "blue cup.png": png(BLUE)})
    out = scratch / "data"
    run("prepare", mine, "--out", out)
    run("prepare", mine, "--out", out)  # prepare's own is replaced
    says(run("prepare", mine, "--out", mine, code=2), "whose pictures are to be prepared")
    says(run("prepare", out, "--out", scratch / "no", code=2), "was made by prepare, and is no folder of pictures")
    put(out, {"more/green cup.png": png(GREEN), "more/black cup.png": png((9, 9, 9))})
    says(run("prepare", out / "more", "--out", out, code=2), "would be replaced, and holds")
    says(run("prepare", mine, "--out", out, code=2), "is not replaced, for it holds 'more'")
    assert (out / "more/green cup.png").exists() and (mine / "red cup.png").exists()


try:
    for case in (sidecars, imagefolder, metadata, kinds, names, leaks, outputs):
        case()
    print("image: all cases are right")
finally:
    shutil.rmtree(scratch)
