# What `install` and `run` agree on. Sourced by both; needs $0 of theirs for messages.
# shellcheck shell=bash disable=SC2034

# Where the guest's kernel lies: the kernel, its modules, and the first half of the initial file system. Another layout of it
# takes another number; what an older checkout has made there is left alone.
store=${SPINWIRE_VM_DIR:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/spinwire-vm}/1

# Programs of the host that `run` starts, and the guest uses by the host's files; and the Debian packages that they are in.
programs=(qemu-system-x86_64:qemu-system-x86 cpio:cpio modprobe:kmod setpriv:util-linux timeout:coreutils bash:bash)
rxe_programs=(ip:iproute2 rdma:iproute2 ibv_devices:ibverbs-utils rping:rdmacm-utils)

# fail CODE PROBLEM REMEDY
fail() {
    printf 'tests/vm/%s: %s; remedy: %s\n' "$(basename "$0")" "$2" "$3" >&2
    exit "$1"
}

# lacking PROGRAM:PACKAGE..: the packages of those that are not there, each once.
lacking() {
    local pair
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
    done | sort -u
}
