#!/usr/bin/env python3
"""tests/distributed/slurm.py QA ROOT: qa train as a job of Slurm's on this machine alone: munged, slurmctld and slurmd of its own, on
loopback, for as long as the test runs. `srun --mpi=pmix` with 1, 2 and 4 ranks ends with the same bytes, scancel's SIGUSR1 saves, and
another number of ranks goes on. As root, with slurm-wlm and munge (./install_deps.sh slurm) and a QA that was built with Open MPI;
says so, and succeeds, where they are missing. CI calls it by hand."""
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

qa, root = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
os.environ["PATH"] += ":/usr/sbin"
missing = [tool for tool in ("munged", "slurmctld", "slurmd", "srun", "scancel") if not shutil.which(tool)]
if missing or os.geteuid() != 0:
    print("distributed/slurm: " + (f"no {missing[0]} here" if missing else "not root") + ", so nothing is run")
    sys.exit(0)
scratch = Path(tempfile.mkdtemp(prefix="slurm", dir="/var/tmp"))
host = socket.gethostname().split(".")[0]
daemons = []


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def daemon(*command):
    log = open(scratch / f"{Path(command[0]).name}.out", "w")
    daemons.append(subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, env=env))


def fail(message):
    logs = "".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}" for log in sorted(scratch.glob("*.out")) + sorted(scratch.glob("*.log")))
    raise SystemExit(f"distributed/slurm: {message}\n{logs}")


for folder in ("state", "spool"):
    (scratch / folder).mkdir()
(scratch / "munge.key").write_bytes(os.urandom(128))
(scratch / "munge.key").chmod(0o400)
(scratch / "slurm.conf").write_text(f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={scratch}/munge.socket
CredType=cred/munge
StateSaveLocation={scratch}/state
SlurmdSpoolDir={scratch}/spool
SlurmctldPidFile={scratch}/slurmctld.pid
SlurmdPidFile={scratch}/slurmd.pid
SlurmctldLogFile={scratch}/slurmctld.log
SlurmdLogFile={scratch}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
""")
env = os.environ | {"SLURM_CONF": str(scratch / "slurm.conf"), "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
data = scratch / "facts.jsonl"
data.write_text("".join((root / "examples/qa/data/facts.en.jsonl").read_text().splitlines(True)[:60]))


def srun(ranks, out, *more):
    return ["srun", "--mpi=pmix", "-n", str(ranks), "--job-name", out, str(qa), "train", "--model", str(root / "tests/data/models/llama_q4_1.gguf"),
            "--data", str(data), "--out", str(scratch / out), "--batch-tokens", "512", "--micro-batch-tokens", "64", "--keep-weight", "0",
            "--threads", "1", "--samples", "0", "--lora-dropout", "0.1", *map(str, more)]


def run(*arguments):
    try:
        done = subprocess.run(srun(*arguments), env=env, text=True, capture_output=True, timeout=300)
    except subprocess.TimeoutExpired:
        fail("srun does not end")
    if done.returncode:
        fail(f"srun ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def adapter(out):
    return (scratch / out / "adapter/adapter_model.safetensors").read_bytes()


try:
    daemon("munged", "--foreground", "--force", f"--key-file={scratch}/munge.key", f"--socket={scratch}/munge.socket", f"--pid-file={scratch}/munge.pid",
           f"--log-file={scratch}/munge.log", f"--seed-file={scratch}/munge.seed")
    while not (scratch / "munge.socket").exists():
        if daemons[0].poll() is not None:
            fail("munged does not start")
        time.sleep(0.1)
    daemon("slurmctld", "-D", "-i")
    daemon("slurmd", "-D", "-N", host)
    for _ in range(60):
        if "idle" in subprocess.run(["sinfo", "-h", "-o", "%T"], env=env, text=True, capture_output=True).stdout:
            break
        time.sleep(1)
    else:
        fail("the node does not come up")
    for ranks in (1, 2, 4):
        said = run(ranks, f"r{ranks}", "--max-steps", 6)
        if ranks > 1 and f"ranks: {ranks}" not in said:
            fail(f"{ranks} ranks do not know of one another:\n{said}")
        if adapter(f"r{ranks}") != adapter("r1"):
            fail(f"{ranks} ranks end with other bytes than one")
    run(1, "whole", "--max-steps", 30)
    started = subprocess.Popen(srun(2, "told", "--max-steps", 30, "--save-every", 1), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (scratch / "told/checkpoint").exists() and started.poll() is None:
        time.sleep(0.05)
    subprocess.run(["scancel", "--signal=USR1", "--name=told"], env=env, check=True)
    said, _ = started.communicate(timeout=120)
    if started.returncode or "the same command with --resume goes on" not in said:
        fail(f"SIGUSR1 does not save, and end:\n{said}")
    run(4, "told", "--max-steps", 30, "--resume")
    if adapter("told") != adapter("whole"):
        fail("a run that was told to stop goes on to other bytes")
    print("distributed/slurm: passed; srun with 1, 2 and 4 ranks, and SIGUSR1 on 2 that 4 went on from")
finally:
    for process in reversed(daemons):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
    shutil.rmtree(scratch, ignore_errors=True)
