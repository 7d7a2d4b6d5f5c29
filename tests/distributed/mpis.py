"""tests/distributed/mpis.py MODEL MPIRUN PROGRAM [MPIRUN PROGRAM]: tests/distributed/training_mpi.cpp by each MPI, each with its
launcher, on 1, 2, 4 and 8 ranks: the same weights and the same checkpoints, byte for byte."""
import os
import subprocess
import sys
import tempfile

model, *ways = sys.argv[1:]
env = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1",
                    "OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
wanted = None
for mpirun, program in zip(ways[::2], ways[1::2]):
    for ranks in (1, 2, 4, 8):
        with tempfile.TemporaryDirectory() as out:
            done = subprocess.run([mpirun, "-n", str(ranks), program, model, out], env=env, text=True, capture_output=True, timeout=300)
        assert done.returncode == 0, f"{mpirun} -n {ranks}\n{done.stdout}{done.stderr}"
        lines = sorted(line for line in done.stdout.splitlines() if line.startswith(("lora: weights ", "full: weights ")))
        assert len(lines) == 2, done.stdout + done.stderr
        wanted = wanted or lines
        assert lines == wanted, f"{mpirun} -n {ranks} ends with\n{lines}, the first run with\n{wanted}"
print("\n".join(wanted))
print(f"distributed/mpis: passed; {len(ways) // 2} MPI{'s' if len(ways) > 2 else ', for MPICH is not here beside it,'} with 1, 2, 4 and 8 ranks end alike")
