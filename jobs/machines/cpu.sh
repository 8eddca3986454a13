# shellcheck shell=bash disable=SC2034  # settings is read by jobs/common.sh
# Nodes with processors only, any network. Tested with Slurm 22.05 and Open MPI 4.1 on the virtual cluster.

# module load gcc openmpi hdf5                # what your site calls them; the same as when the program was built

# One task a socket or NUMA domain computes best; sbatch --cpus-per-task says how many cores it gets. One core is left
# to the thread that communicates, unless there is only one.
cores=${SLURM_CPUS_PER_TASK:-1}
settings=(--set "run.threads=$((cores > 1 ? cores - 1 : 1))")

# What jobs/scaling.sbatch asks for, for so many ranks a node.
resources() { echo "--cpus-per-task=${CPUS_PER_TASK:-1}"; }

launch() {
    # --mpi=pmix          how Open MPI's ranks find each other; without it each would be alone
    # --kill-on-bad-exit  a rank that dies takes the others along at once instead of after run.timeout
    # --wait              once a rank has ended, all have, but a lost node may never say so: go on after 20 s
    # --cpus-per-task     srun no longer takes it from sbatch, since Slurm 22.05
    # --cpu-bind=cores    a task's threads stay on its cores; with one core only they may use what else is idle
    local bind=()
    [ "$cores" -eq 1 ] || bind=(--cpus-per-task="$cores" --cpu-bind=cores)
    srun --mpi=pmix --kill-on-bad-exit=1 --wait=20 "${bind[@]}" "$@"
}
