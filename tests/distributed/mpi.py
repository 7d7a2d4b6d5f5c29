"""tests/distributed/mpi.py MPIRUN QA ROOT [KILLS]: qa train on ranks of MPI: the same bytes whatever their number, one message for an
error, and a rank that is killed or hangs ends the run, which goes on from its checkpoint with another number of ranks. MPIRUN is the
launcher of the MPI that QA was built with. KILLS: how many ranks are killed, one after the other, at random moments; 1."""
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

mpirun, qa, root = sys.argv[1:4]
kills = int(sys.argv[4]) if len(sys.argv) > 4 else 1
env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
                    "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
scratch = Path(tempfile.mkdtemp())
data = scratch / "facts.jsonl"
data.write_text("".join((Path(root) / "examples/qa/data/facts.en.jsonl").read_text().splitlines(True)[:60]))


def command(ranks, out, *more, model="tests/data/models/llama_q4_1.gguf"):
    launch = [mpirun, "-n", str(ranks)] if ranks else []
    return launch + [qa, "train", "--model", str(Path(root) / model), "--data", str(data), "--out", str(scratch / out), "--batch-tokens",
                     "512", "--micro-batch-tokens", "64", "--keep-weight", "0", "--threads", "1", "--samples", "0", "--lora-dropout",
                     "0.1", *map(str, more)]


def run(*arguments, **model):
    done = subprocess.run(command(*arguments, **model), env=env, text=True, capture_output=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def adapter(out):
    return (scratch / out / "adapter/adapter_model.safetensors").read_bytes()


for ranks in (1, 2, 4):
    code, said = run(ranks, f"r{ranks}", "--max-steps", 6)
    assert code == 0 and (f"ranks: {ranks}" in said) == (ranks > 1) and said.count("trained 6 steps") == 1, said
    assert adapter(f"r{ranks}") == adapter("r1"), f"{ranks} ranks end with other bytes than one"
code, said = run(0, "alone", "--max-steps", 6)  # no rank: MPI is not started, and gradients are added where they are
assert code == 0 and "ranks:" not in said, said

code, said = run(2, "none", model="tests/data/no-such-model")
assert code != 0 and said.count("there is no such file or folder") == 1 and "rank 0 of 2 (" in said, said
code, said = run(3, "three")
assert code != 0 and "3 ranks, and their number is no power of two" in said, said
code, said = run(3, "three", "--max-steps", 2, "--no-exact")
assert code == 0 and "another number of ranks gives other bits" in said, said

# What is asked is shared out, and the figures are those of one process.
asked = scratch / "asked.jsonl"
asked.write_text("".join(f'{{"question": "{q} {i}?", "answers": ["{i}"]}}\n' for i in range(9) for q in ("what is", "who was")) +
                 "".join(f'{{"question": "which {i}?", "answers": ["this {i}"], "rejected": ["that one"]}}\n' for i in range(5)))
reports = []
for ranks in (0, 3):
    report = scratch / f"report{ranks}.json"
    launch = [mpirun, "-n", str(ranks)] if ranks else []
    done = subprocess.run([*launch, qa, "evaluate", "--model", str(Path(root) / "tests/data/models/llama_q4_1.gguf"), "--adapter",
                           str(scratch / "r1/adapter"), "--data", str(asked), "--unrelated", str(Path(root) / "README.md"), "--batch", "4",
                           "--max-new-tokens", "6", "--threads", "1", "--json", str(report)], env=env, text=True, capture_output=True)
    assert done.returncode == 0 and done.stdout.count("exact match ") == 1, done.stdout + done.stderr
    reports.append((report.read_text(), [line for line in done.stdout.splitlines() if "report" not in line and "rank" not in line]))
assert reports[0] == reports[1], reports

code, whole = run(1, "whole", "--max-steps", 30)
assert code == 0, whole


def begin(out, *more):
    """Two ranks in the middle of their run."""
    started = subprocess.Popen(command(2, out, "--max-steps", 30, "--save-every", 1, *more), env=env, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    while not (scratch / out / "checkpoint").exists():
        assert started.poll() is None
        time.sleep(0.01)
    return started


started = begin("told")
started.send_signal(signal.SIGUSR1)
out, said = started.communicate(timeout=60)
assert started.returncode == 0 and "the same command with --resume goes on" in out, out + said
code, said = run(4, "told", "--max-steps", 30, "--resume")
assert code == 0 and adapter("told") == adapter("whole"), said

def pids(out):
    """The processes that train, ranks but not their launcher."""
    found = subprocess.run(["pgrep", "-f", f"^{qa} train .*{scratch}/{out}( |$)"], text=True, capture_output=True).stdout
    return [int(pid) for pid in found.split()]


started = begin("hangs", "--rank-timeout", 2)
os.kill(pids("hangs")[1], signal.SIGSTOP)
hangs_since = time.monotonic()
out, said = started.communicate(timeout=60)
assert started.returncode != 0 and time.monotonic() - hangs_since < 15, said
assert len(re.findall(r"rank \d of 2 \(.*\) has waited 2[.\d]* s in step \d+, [\w -]+, for rank \d of 2 \(.*\)", said)) == 1, said
code, said = run(1, "hangs", "--max-steps", 30, "--resume")
assert code == 0 and adapter("hangs") == adapter("whole"), said

seed = random.randrange(1 << 30)
print(f"distributed/mpi: {kills} kills, seed {seed}")
moments = random.Random(seed)
killed, resumes = 0, 0
while killed < kills or resumes == 0:
    ranks = moments.choice((1, 2, 4))
    started = subprocess.Popen(command(ranks, "killed", "--max-steps", 30, "--save-every", 1, "--resume"), env=env, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    if killed < kills:
        time.sleep(moments.uniform(0.2, 2.5))
        there = pids("killed")
        if there:
            os.kill(moments.choice(there), signal.SIGKILL)
    killed_at = time.monotonic()
    said, _ = started.communicate(timeout=60)
    if started.returncode != 0:
        assert time.monotonic() - killed_at < 15 and re.search("signal 9|SIGNAL: 9", said), said
        killed += 1
        continue
    assert adapter("killed") == adapter("whole"), said  # the end: the rest of the kills are of another run
    resumes += 1
    shutil.rmtree(scratch / "killed")
shutil.rmtree(scratch)
print(f"distributed/mpi: passed; {killed} ranks killed, {resumes} runs went on to the same bytes")
