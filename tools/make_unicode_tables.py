#!/usr/bin/env python3
"""Write include/ftlib/text/unicode_tables.hpp from Debian's package unicode-data.

    tools/make_unicode_tables.py [/usr/share/unicode]

Classes are what the pre-tokenizers' patterns ask for: \\p{L}, \\p{N}, \\s and \\w (UTS #18: Alphabetic, Mark,
Decimal_Number, Connector_Punctuation, Join_Control); letters by case, and \\p{M}. NFC asks for canonical decompositions
and combining classes; rules of a tokenizer.json that hold for a grapheme cluster ask where one ends (UAX 29).
"""
import pathlib
import subprocess
import sys

source = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "/usr/share/unicode")
target = pathlib.Path(__file__).resolve().parent.parent / "include/ftlib/text/unicode_tables.hpp"
LETTER, NUMBER, SPACE, WORD = 1, 2, 4, 8
CASES = {"Lu": 16, "Lt": 16, "Ll": 32, "Lm": 128, "Lo": 128, "Mn": 64, "Mc": 64, "Me": 64}


def properties(path):
    """Yields (first, last, property) of a file like PropList.txt."""
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = [field.strip() for field in line.split("#")[0].split(";")]
        if len(fields) >= 2:
            first, _, last = fields[0].partition("..")
            yield int(first, 16), int(last or first, 16), fields[1]


classes = [0] * 0x110000
combining, decompositions = [], []  # [first, last, class]; (code, first, second or 0, never composed)
first = None
for line in (source / "UnicodeData.txt").read_text(encoding="utf-8").splitlines():
    fields = line.split(";")
    code, category = int(fields[0], 16), fields[2]
    if fields[1].endswith(", First>"):
        first = code
        continue
    if fields[3] != "0":
        if combining and combining[-1][1] == code - 1 and combining[-1][2] == int(fields[3]):
            combining[-1][1] = code
        else:
            combining.append([code, code, int(fields[3])])
    if fields[5] and not fields[5].startswith("<"):  # canonical: in steps, the second of two never comes apart again
        parts = [int(part, 16) for part in fields[5].split()]
        decompositions.append((code, parts[0], parts[1] if len(parts) > 1 else 0))
    mask = (LETTER if category[0] == "L" else 0) | (NUMBER if category[0] == "N" else 0)
    mask |= CASES.get(category, 0) | (WORD if category[0] == "M" or category in ("Nd", "Pc") else 0)
    for c in range(code if first is None else first, code + 1):
        classes[c] |= mask
    first = None
for a, b, name in properties(source / "DerivedCoreProperties.txt"):
    if name == "Alphabetic":
        for c in range(a, b + 1):
            classes[c] |= WORD
for a, b, name in properties(source / "PropList.txt"):
    for c in range(a, b + 1):
        classes[c] |= {"White_Space": SPACE, "Join_Control": WORD}.get(name, 0)

ranges = []  # [first, last, classes]
for c, mask in enumerate(classes):
    if not mask:
        continue
    if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == mask:
        ranges[-1][1] = c
    else:
        ranges.append([c, c, mask])

KINDS = {"Extend": 1, "ZWJ": 1, "SpacingMark": 1, "Prepend": 2, "Control": 3, "CR": 3, "LF": 3}
graphemes = []  # [first, last, kind]
for a, b, name in sorted(properties(source / "auxiliary/GraphemeBreakProperty.txt")):
    if kind := KINDS.get(name):
        if graphemes and graphemes[-1][1] == a - 1 and graphemes[-1][2] == kind:
            graphemes[-1][1] = b
        else:
            graphemes.append([a, b, kind])

excluded = set()
for a, b, name in properties(source / "DerivedNormalizationProps.txt"):
    if name == "Full_Composition_Exclusion":
        excluded.update(range(a, b + 1))
rows = ",".join("{0x%x,0x%x,%d}" % tuple(item) for item in ranges)
grapheme_rows = ",".join("{0x%x,0x%x,%d}" % tuple(item) for item in graphemes)
combining_rows = ",".join("{0x%x,0x%x,%d}" % tuple(item) for item in combining)
decomposition_rows = ",".join("{0x%x,0x%x,0x%x,%s}" % (*item, "false" if item[0] in excluded else "true")
                              for item in decompositions)
version = (source / "PropList.txt").read_text(encoding="utf-8").splitlines()[0].split("-")[1].removesuffix(".txt")
target.write_text(
    f"""// text/unicode_tables.hpp: classes and compositions of Unicode {version}. Made by tools/make_unicode_tables.py from unicode-data.
#pragma once
#include <ftlib/core/version.hpp>

#include <cstdint>  // std::uint8_t

namespace ft::inline FTLIB_ABI {{
namespace detail {{

/// Code points first..last are in these classes: 1 letter (L), 2 number (N), 4 white space, 8 word, 16 upper or title
/// case (Lu, Lt), 32 lower case (Ll), 64 mark (M), 128 letter without case (Lm, Lo).
struct ClassRange {{
  char32_t first, last;
  std::uint8_t classes;
}};

inline constexpr ClassRange class_ranges[] = {{{rows}}};

/// Code points first..last in a grapheme cluster: 1 belong to what is before them, 2 to what is behind, 3 stand alone.
struct GraphemeRange {{
  char32_t first, last;
  std::uint8_t kind;
}};

inline constexpr GraphemeRange grapheme_ranges[] = {{{grapheme_rows}}};

/// Code points first..last have this canonical combining class; all others 0.
struct CombiningRange {{
  char32_t first, last;
  std::uint8_t combining_class;
}};

inline constexpr CombiningRange combining_ranges[] = {{{combining_rows}}};

/// The canonical decomposition of a character into one or two, of which the first may come apart again. Hangul's
/// syllables, which are computed, are not among them.
struct Decomposition {{
  char32_t code, first, second;  // second 0: there is one
  bool composes;                 // whether NFC puts them together again
}};

inline constexpr Decomposition decompositions[] = {{{decomposition_rows}}};

}}  // namespace detail
}}  // namespace ft::inline FTLIB_ABI
""",
    encoding="utf-8",
)
subprocess.run(["clang-format", "-i", str(target)], check=True)
print(f"{target}: Unicode {version}, {len(ranges)} class, {len(graphemes)} grapheme, {len(combining)} combining ranges, "
      f"{len(decompositions)} decompositions")
