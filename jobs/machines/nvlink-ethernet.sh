# shellcheck shell=bash disable=SC2034  # settings is read by jobs/common.sh
# GPUs joined by NVLink, nodes by Ethernet without RDMA: the paper's cluster (3 nodes of 8 GPUs, 10 Gb/s). Submit with
# --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8. Written from the manuals of NCCL 2.2x and Open MPI 4; not
# tested by us.

# module load cuda nccl openmpi hdf5

settings=(--set run.device=cuda)

# No InfiniBand here; without this NCCL may find a card that is not cabled and wait for it.
export NCCL_IB_DISABLE=1
# The interface between nodes; "^" excludes what must never be taken, where the names differ from node to node.
export NCCL_SOCKET_IFNAME="${NCCL_SOCKET_IFNAME:-^lo,docker,virbr}"
# One TCP connection does not fill 25 Gb/s and more: threads a connection group, and sockets a thread (product at most
# 64). 10 Gb/s is filled by one of each.
export NCCL_SOCKET_NTHREADS="${NCCL_SOCKET_NTHREADS:-4}" NCCL_NSOCKS_PERTHREAD="${NCCL_NSOCKS_PERTHREAD:-4}"
# Kernels of several communicators start in the order in which the host asked for them: a plan has several in flight.
export NCCL_LAUNCH_ORDER_IMPLICIT=1
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
# One queue for kernels, so that communication kernels are not overtaken by computing ones asked for later.
export CUDA_DEVICE_MAX_CONNECTIONS=1
# MPI over TCP and shared memory. The same networks must be reachable from all nodes: give the cluster's as a.b.c.d/n.
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp
[ -z "${NETWORK:-}" ] || export OMPI_MCA_btl_tcp_if_include="$NETWORK"

# What jobs/scaling.sbatch asks for, for so many ranks a node: each has a GPU.
resources() { echo "--gpus-per-node=$1 --cpus-per-task=8"; }

launch() {
    # As on nvlink-infiniband.sh.
    srun --mpi=pmix --kill-on-bad-exit=1 --wait=20 --gpu-bind=none --cpu-bind=cores \
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-8}" "$@"
}
