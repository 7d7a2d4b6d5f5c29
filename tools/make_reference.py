#!/usr/bin/env python3
"""Writes docs/reference.md: what ftlib/finetune.hpp declares, header by header, a line each, from the docstrings (doxygen's
XML). With --check it fails where the page is not what the headers say."""
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

root = Path(__file__).resolve().parent.parent
xml = root / "build/reference/xml"
floors = ["text", "image", "train", "adapters", "models", "nn", "optim", "ops", "autograd", "tensor", "io", "core"]


def reached(header, seen):
    """The headers that a host of the runtime reads."""
    if header not in seen and (root / "include" / header).exists() and not re.search(r"\.(inl|cpu|shared)\.hpp$", header):
        seen.add(header)
        for line in (root / "include" / header).read_text().splitlines():
            if include := re.match(r"#include <(ftlib/.*\.hpp)>", line):
                reached(include[1], seen)
    return seen


def words(node):
    return re.sub(r"\s+", " ", "".join(node.itertext())).strip() if node is not None else ""


def sentence(node):
    """The first sentence of a docstring, or of a comment behind a field."""
    text = words(node.find("briefdescription")) or words(node.find("detaileddescription"))
    return re.split(r"(?<=[a-z)\]'\"A-Z0-9])\.\s", text + " ")[0].strip()


def declaration(member, scope=""):
    kind, name = member.get("kind"), scope + words(member.find("name"))
    if kind == "enum":
        return f"enum {name} {{ " + ", ".join(words(v.find("name")) for v in member.iter("enumvalue")) + " }"
    kind_of = words(member.find("type"))
    if kind in ("variable", "typedef"):
        return f"using {name} = {kind_of}" if kind == "typedef" else f"{kind_of} {name}"
    arguments = words(member.find("argsstring")).removesuffix(" override").removesuffix("=0").strip()
    clean = re.sub(r"\b(FTLIB_INLINE|virtual|\[\[[a-z:]+\]\])\s*", "", f"{kind_of} {name}{arguments}").strip()
    clean = re.sub(r" ?([&*]) ?(?=\w)", r"\1 ", clean)
    return re.sub(r"\s*=\s*(delete|default)$", "", clean).replace("< ", "<").replace(" >", ">")


def members(compound):
    for section in compound.iter("sectiondef"):
        if section.get("kind", "").startswith(("public", "func", "enum", "typedef", "var")):
            yield from section.iter("memberdef")


configuration = (root / "docs/Doxyfile").read_text() + (
    "\nGENERATE_XML=YES\nGENERATE_HTML=NO\nXML_PROGRAMLISTING=NO\nOUTPUT_DIRECTORY=build/reference\nINPUT=include/ftlib\n"
    "USE_MDFILE_AS_MAINPAGE=\n")
shutil.rmtree(xml, ignore_errors=True)
(root / "build").mkdir(exist_ok=True)
subprocess.run(["doxygen", "-"], input=configuration, text=True, cwd=root, check=True)

headers = reached("ftlib/finetune.hpp", set())
entries = {header: [] for header in headers}  # (line, text) by header
for path in sorted(xml.glob("*.xml")):
    compound = ElementTree.parse(path).getroot().find("compounddef")
    if compound is None:
        continue
    name = re.sub(r"^.*?::", "", words(compound.find("compoundname")), count=1)
    location = compound.find("location")
    if compound.get("kind") in ("class", "struct") and "::" not in name.removeprefix("text::"):
        header = location.get("file")
        if header not in entries or not sentence(compound):
            continue
        lines = [f"- **`{name}`**: {sentence(compound)}."]
        plain = compound.get("kind") == "struct"
        fields = []
        for member in members(compound):
            own = words(member.find("name"))
            if own.startswith(("operator", "~")) or own == name.split("::")[-1] or member.get("prot") != "public":
                continue
            if member.get("kind") == "variable":
                fields.append(own)
            elif member.get("kind") == "function":
                said = sentence(member)
                lines.append(f"  - `{declaration(member)}`" + (f": {said}." if said else ""))
        if fields:
            lines.insert(1, "  - fields: " + ", ".join(f"`{f}`" for f in fields))
        entries[header].append((int(location.get("line")), "\n".join(lines)))
    elif compound.get("kind") == "namespace" and "detail" not in name:
        seen = set()
        for member in members(compound):
            header = member.find("location").get("file")
            line = member.find("location").get("declline") or member.find("location").get("line")
            header = member.find("location").get("declfile") or header
            said = sentence(member)
            if header not in entries or not said or words(member.find("name")).startswith("operator"):
                continue
            text = f"- `{declaration(member, '' if name == 'ft' else name + '::')}`: {said}."
            if (header, text) not in seen:
                seen.add((header, text))
                entries[header].append((int(line), text))

page = ["# Reference: what `ftlib/finetune.hpp` declares", "",
        "A line each, in namespace `ft`; contracts, shapes and what is thrown are in the headers, and as HTML by",
        "`doxygen docs/Doxyfile` (build/docs/html). `T` is float, double, half or bfloat16, `D` is `Cpu` or `Cuda`. The list of all",
        "ops is the part [ops](#ops). Made by `tools/make_reference.py` from the docstrings; CI holds it against them."]
for floor in floors:
    of_floor = sorted(h for h in headers if h.startswith(f"ftlib/{floor}/") and entries[h])
    if of_floor:
        page += ["", f"## {floor}"]
    for header in of_floor:
        page += ["", f"`{header}`", ""] + [text for _, text in sorted(entries[header])]
page = re.sub(r"\.\.(?=\n|$)", ".", "\n".join(page)) + "\n"

target = root / "docs/reference.md"
if sys.argv[1:] == ["--check"]:
    if target.read_text() != page:
        sys.exit("docs/reference.md is not what the headers say; tools/make_reference.py writes it")
    print("docs/reference.md: what the headers say")
else:
    target.write_text(page)
