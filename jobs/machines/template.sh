# shellcheck shell=bash disable=SC2034  # settings and tawpipe are read by jobs/common.sh
# NAME OF THE MACHINE: nodes, processors, GPUs, network. Tested on DATE with VERSIONS (modules below).
# Copy it, answer the questions, and submit with MACHINE=path/to/your.sh.

# 1. Modules: those the program was built with. `ldd $(command -v tawpipe)` must find its MPI and HDF5.
# module purge
# module load gcc openmpi hdf5

# 2. Program: left alone, it is TAWPIPE, this repository's build, or what the PATH has. From a container:
# tawpipe=(apptainer exec "$root/tawpipe.sif" tawpipe)

# 3. Settings that belong to the machine and not to a deck.
settings=()

# 4. Network: which interfaces or cards carry data? `ip -br addr`, `ibstat`; the other machine files have the variables.

# 5. What does sbatch need for so many ranks a node? jobs/scaling.sbatch asks for it; on the command line you do.
resources() { echo "--cpus-per-task=1"; }                            # with GPUs: "--gpus-per-node=$1 --cpus-per-task=8"

# 6. How ranks are started. `srun --mpi=list` must show pmix; if it does not, use mpirun, which knows Slurm's nodes:
launch() {
    # srun --mpi=pmix --kill-on-bad-exit=1 --wait=20 "$@"
    # mpirun passes no signal that Slurm sends to steps (--signal=USR1 without B:); it passes those it gets itself, and
    # run.wall_time, which the job script sets, ends the run in any case.
    # A cell of an experiment may be smaller than the allocation, which mpirun would fill: it says so by these two.
    mpirun --bind-to none ${SLURM_NTASKS:+-n "$SLURM_NTASKS"} \
        ${SLURM_NTASKS_PER_NODE:+--map-by "ppr:$SLURM_NTASKS_PER_NODE:node"} "$@"
}
