# shellcheck shell=bash disable=SC2034  # settings is read by jobs/common.sh
# GPUs joined by NVLink, nodes by InfiniBand with GPUDirect, such as DGX or HGX H100. Submit with
# --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8. Written from the manuals of NCCL 2.2x and Open MPI 4; not
# tested by us.

# module load cuda nccl openmpi hdf5

# NCCL moves weights and gradients; MPI only starts the program and agrees on small things.
settings=(--set run.device=cuda)

# The cards that carry data. Without it NCCL also takes management and storage cards, which are slower. `ibstat` shows
# names; "=" makes them exact, so that mlx5_1 does not mean mlx5_10 as well.
export NCCL_IB_HCA="${NCCL_IB_HCA:-=mlx5_0,mlx5_1,mlx5_2,mlx5_3,mlx5_4,mlx5_5,mlx5_6,mlx5_7}"
# Ring and tree connections are set up over TCP: the interface that all nodes share.
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-ib0}"
# Kernels of several communicators start in the order in which the host asked for them: a plan has several in flight.
export NCCL_LAUNCH_ORDER_IMPLICIT=1
# Warnings only; INFO shows which links NCCL chose: look for "GDRDMA" and no "Socket".
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
# One queue for kernels, so that communication kernels are not overtaken by computing ones asked for later.
export CUDA_DEVICE_MAX_CONNECTIONS=1
# MPI over the same fabric, on the host only: NCCL owns the GPUs' memory.
export OMPI_MCA_pml=ucx UCX_TLS=rc,sm,self

# What jobs/scaling.sbatch asks for, for so many ranks a node: each has a GPU.
resources() { echo "--gpus-per-node=$1 --cpus-per-task=8"; }

launch() {
    # --kill-on-bad-exit, --wait  a lost rank or node ends the others, as on cpu.sh
    # --gpu-bind=none  every rank sees all GPUs of its node, without which NVLink peers cannot open each other's memory;
    #                  the program takes the one of its local rank
    # --cpu-bind=cores a rank's threads stay near its GPU
    srun --mpi=pmix --kill-on-bad-exit=1 --wait=20 --gpu-bind=none --cpu-bind=cores \
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" "$@"
}
