#!/usr/bin/env python3
"""How fast each case of benchmarks/cuda can be at most on a card, without one: the card's data sheet, lowered by what
ptxas says of the kernels. An estimate from above and no measurement: nothing here has run on a GPU.

    FTLIB_CASES=cases.json build/tests/cuda_emulation/test_cuda_benchmarks
    tools/check_cuda.py --json kernels.json 80 89 90
    tools/roofline.py cases.json kernels.json [--only REGEX] [--lowered]

The roof is the larger of bytes over bandwidth and FLOPs over the peak of FP32 or of the tensor cores. It is lowered
- where fewer bytes can be on their way than latency times bandwidth (Little's law): registers and shared memory say how
  many blocks run side by side, and a block has on its way at most all loads of its threads' code, no more than its
  registers hold, or, where copies go to shared memory, all of that;
- where blocks are fewer than multiprocessors, or a multiprocessor has fewer than four warps, which arithmetic needs;
- for mma.sync on Hopper, which reaches a part of the peak alone (arXiv:2402.13499).
A card that the report was not made for is left out, and named.
Of a case with several kernels the most favourable counts; for products on tensor cores, of those that multiply there.
cuBLASLt's own kernels are not in the report: for them the roof stays. A kernel that the report does not have is an error."""
import argparse
import json
import math
import re
import sys

REGISTERS = 65536
# Of a multiprocessor: warps, bytes of shared memory, blocks. CUDA C++ Programming Guide, "Technical Specifications per
# Compute Capability". A block costs 1 KiB of shared memory more than it asks for.
LIMITS = {80: (64, 164 << 10, 32), 89: (48, 100 << 10, 24), 90: (64, 228 << 10, 32)}


def blocks_side_by_side(sm, of_sm, launch):
    warps, shared, most = LIMITS[sm]
    of_block = math.ceil(launch["threads"] / 32)
    of_warp = math.ceil(of_sm["registers"] * 32 / 256) * 256
    return min(most, warps // of_block, REGISTERS // of_warp // of_block,
               shared // (launch["shared"] + of_sm["shared"] + 1024))


def shares(card, kernel, launch):
    """What of the bandwidth, and of the peak, this launch can reach."""
    of_sm = kernel[f"sm_{card['sm']}"]
    blocks = blocks_side_by_side(card["sm"], of_sm, launch)
    running = min(blocks * card["multiprocessors"], launch["blocks"])
    on_its_way = launch["threads"] * min(kernel["load_bytes"], 4 * of_sm["registers"])
    if kernel["async"]:
        on_its_way = max(on_its_way, launch["shared"])
    needed = card["latency"] / card["clock"] * card["bandwidth"]
    warps = math.ceil(launch["threads"] / 32) * running / card["multiprocessors"]
    # A kernel that only writes has nothing on its way and nothing to wait for.
    memory = min(1, running * on_its_way / needed) if on_its_way else 1
    return memory, min(1, warps / 4) * (card["mma_share"] if kernel["mma"] else 1)


def estimate(card, case, kernels):
    of_launches = []  # share of the bandwidth, share of the peak, whether it multiplies on tensor cores
    for launch in case["launches"]:
        if launch["kernel"] == "cublasLtMatmul":
            of_launches.append((1, 1, True))
        elif launch["kernel"] in kernels:
            kernel = kernels[launch["kernel"]]
            of_launches.append((*shares(card, kernel, launch), kernel["mma"]))
        else:
            sys.exit(f"roofline: case '{case['name']}' launches {launch['kernel']}, which the report does not have\n"
                     "  hint: make both files anew: tools/roofline.py --help says how")
    if not case["launches"]:
        sys.exit(f"roofline: case '{case['name']}' launches nothing")
    multiply = [e for e in of_launches if e[2]] if case["unit"] == "tensor" else of_launches
    if not multiply:
        sys.exit(f"roofline: case '{case['name']}' is said to use tensor cores, and no kernel of it does")
    memory, arithmetic = max(e[0] for e in of_launches), max(e[1] for e in multiply)
    by_memory, by_arithmetic = case["bytes"] / card["bandwidth"], case["flops"] / card[case["unit"]]
    roof, seconds = max(by_memory, by_arithmetic), max(by_memory / memory, by_arithmetic / arithmetic)
    bound = "memory" if by_memory / memory >= by_arithmetic / arithmetic else {"tensor": "tensor", "fp32": "FP32"}[case["unit"]]
    return seconds, bound, roof / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases")
    parser.add_argument("kernels")
    parser.add_argument("--only", default="", help="cases whose names match")
    parser.add_argument("--lowered", action="store_true", help="cases whose roof the report lowers on some card")
    arguments = parser.parse_args()
    listed, kernels = json.load(open(arguments.cases)), json.load(open(arguments.kernels))
    compiled_for = {key for kernel in kernels.values() for key in kernel if key.startswith("sm_")}
    cards = [card for card in listed["cards"] if f"sm_{card['sm']}" in compiled_for]
    left_out = [f"{card['name']} (sm_{card['sm']})" for card in listed["cards"] if card not in cards]
    if not cards:
        sys.exit(f"roofline: {arguments.kernels} has no GPU of {arguments.cases}: {', '.join(left_out)}\n"
                 "  hint: name one of them to tools/check_cuda.py")
    lines = []
    for case in listed["cases"]:
        of_cards = [estimate(card, case, kernels) for card in cards]
        if not re.search(arguments.only, case["name"]) or (arguments.lowered and min(e[2] for e in of_cards) > 0.995):
            continue
        cells = [f"{1e6 * seconds:,.0f} {bound}" + (f", {100 * share:.0f} %" if share < 0.995 else "")
                 for seconds, bound, share in of_cards]
        lines.append(f"| {case['name']} | {case['bytes'] / 1e6:,.0f} | {case['flops'] / case['bytes']:,.1f} | "
                     + " | ".join(cells) + " |")
    print("An estimate from above, and no measurement: the least microseconds, what bounds them, and where ptxas's report\n"
          "lowers the data sheet's roof, to which part of it.\n")
    print("| case | MB | FLOP/B | " + " | ".join(card["name"] for card in cards) + " |")
    print("| --- | ---: | ---: |" + " ---: |" * len(cards))
    print("\n".join(lines))
    print(f"\n{len(lines)} of {len(listed['cases'])} cases")
    if left_out:
        print(f"{len(left_out)} of {len(listed['cards'])} cards left out, for which ptxas's report was not made: " + ", ".join(left_out))


if __name__ == "__main__":
    main()
