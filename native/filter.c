// SPDX-License-Identifier: ISC
/*
 * filter.c: the system calls that a confined process keeps. Found by tracing boots,
 * resets, consoles and garbage collections on both engines; each says what it is for.
 *
 * What isn't listed fails with EPERM, which a runtime survives; what no part of this
 * program could want, and an attacker would, ends the process.
 */
#define _GNU_SOURCE
#include "sandbox.h"
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/if_tun.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define LONGEST 400
#define X32_BIT 0x40000000u
#define KVM_IOCTL_TYPE 0xae00u
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

static const int always[] = {
	// messages, consoles, the trace
	SYS_read, SYS_write, SYS_writev, SYS_sendmsg, SYS_recvmsg, SYS_close, SYS_lseek,
	// half of a guest's socket ends
	SYS_shutdown,
	// disks, interfaces
	SYS_readv, SYS_recvfrom, SYS_preadv, SYS_pwritev, SYS_preadv2, SYS_pwritev2, SYS_pread64, SYS_pwrite64, SYS_fdatasync,
	SYS_fallocate, SYS_ftruncate,
	// a disk that a snapshot froze: others may read it
	SYS_flock,
	// waiting: the halted guest, the watching thread, Bun's event loop
	SYS_poll, SYS_ppoll, SYS_epoll_wait, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_epoll_ctl,
	SYS_nanosleep, SYS_clock_nanosleep, SYS_restart_syscall,
	// time
	SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday,
	// the watching thread's timer
	SYS_timerfd_settime,
	// an engine's timer and kicks, again at each reset of the guest
	SYS_timer_create, SYS_timer_settime, SYS_timer_gettime, SYS_timer_delete, SYS_eventfd2,
	SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack,
	// memory: the machine's, the heap's
	SYS_munmap, SYS_madvise, SYS_mremap, SYS_brk, SYS_mincore, SYS_membarrier,
	// threads of the garbage collector and the compiler, made when they are needed
	SYS_futex, SYS_gettid, SYS_getpid, SYS_sched_yield, SYS_sched_getaffinity, SYS_getcpu,
	SYS_set_robust_list, SYS_rseq, SYS_exit, SYS_exit_group, SYS_getrandom,
	// sizes of files that are open; the heap's limits
	SYS_fstat, SYS_sysinfo, SYS_getrusage,
};

// What a share's process does with files beneath its directory, by descriptors.
static const int share_reads[] = { SYS_readlinkat, SYS_pread64, SYS_getdents64, SYS_fstatfs,
				   SYS_fsync,	   SYS_fdatasync };
static const int share_writes[] = { SYS_pwrite64,  SYS_mkdirat, SYS_symlinkat, SYS_unlinkat,
				    SYS_renameat2, SYS_linkat,	SYS_fchmod,    SYS_utimensat,
				    SYS_ftruncate, 452 /* fchmodat2 */ };

// What a fuzzer does with the files of its corpus: by paths, of which Landlock says whether they
// are in it.
static const int fuzzer_files[] = {
	SYS_openat,    SYS_open,     SYS_newfstatat, SYS_stat,	 SYS_lstat,  SYS_statx,
	SYS_access,    SYS_faccessat, SYS_getdents64, SYS_mkdir, SYS_mkdirat, SYS_rename,
	SYS_renameat,  SYS_renameat2, SYS_unlink,    SYS_unlinkat, SYS_rmdir, SYS_fsync,
};

// EACCES instead of EPERM: what a runtime tries and does without.
static const int absent[] = { SYS_openat, SYS_open, SYS_access, SYS_faccessat, SYS_stat,
			      SYS_newfstatat, SYS_statx, SYS_readlink, SYS_readlinkat };

// No part of this program makes these.
static const int attacks[] = {
	SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_execve, SYS_execveat, SYS_fork,
	SYS_vfork, SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_keyctl, SYS_add_key,
	SYS_request_key, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load,
	SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_setns, SYS_unshare, SYS_iopl,
	SYS_ioperm, SYS_swapon, SYS_reboot, SYS_open_by_handle_at, SYS_personality,
	425 /* io_uring_setup */, 428 /* open_tree */, 429 /* move_mount */, 442 /* mount_setattr */,
};

struct program {
	struct sock_filter code[LONGEST];
	unsigned short length;
	uint32_t refuse; /* what a refused call gets */
};

static void emit(struct program *program, uint16_t code, uint8_t yes, uint8_t no, uint32_t value)
{
	if (program->length < LONGEST)
		program->code[program->length++] = (struct sock_filter){ code, yes, no, value };
}

static void give(struct program *program, uint32_t action)
{
	emit(program, BPF_RET | BPF_K, 0, 0, action);
}

static void load(struct program *program, size_t offset)
{
	emit(program, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

static void load_number(struct program *program)
{
	load(program, offsetof(struct seccomp_data, nr));
}

// The low half: flags and commands have no more.
static void load_argument(struct program *program, int index)
{
	load(program, offsetof(struct seccomp_data, args) + 8 * (size_t)index);
}

// The next `skip` instructions are for this call alone.
static void only(struct program *program, int number, uint8_t skip)
{
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, 0, skip, (uint32_t)number);
}

static void list(struct program *program, const int *numbers, size_t count, uint32_t action)
{
	for (size_t i = 0; i < count; i++) {
		only(program, numbers[i], 1);
		give(program, action);
	}
}

// Allowed when (argument & mask) == value, else refused.
static void when(struct program *program, int number, int argument, uint32_t mask, uint32_t value)
{
	only(program, number, 6);
	load_argument(program, argument);
	emit(program, BPF_ALU | BPF_AND | BPF_K, 0, 0, mask);
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, value);
	give(program, SECCOMP_RET_ALLOW);
	load_number(program);
	give(program, program->refuse);
}

// Allowed for these values of an argument; others go on to the next rule.
static void for_value(struct program *program, int number, int argument, uint32_t value)
{
	only(program, number, 4);
	load_argument(program, argument);
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, value);
	give(program, SECCOMP_RET_ALLOW);
	load_number(program);
}

// Allowed for these values of two arguments; others go on to the next rule.
static void for_values(struct program *program, int number, const int arguments[2],
		       const uint32_t values[2])
{
	only(program, number, 6);
	load_argument(program, arguments[0]);
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 3, values[0]);
	load_argument(program, arguments[1]);
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, values[1]);
	give(program, SECCOMP_RET_ALLOW);
	load_number(program);
}

// Allowed when (argument & mask) == value; others go on to the next rule.
static void for_bits(struct program *program, int number, int argument, uint32_t mask, uint32_t value)
{
	only(program, number, 5);
	load_argument(program, argument);
	emit(program, BPF_ALU | BPF_AND | BPF_K, 0, 0, mask);
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, value);
	give(program, SECCOMP_RET_ALLOW);
	load_number(program);
}

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static void share(struct program *program)
{
	when(program, 437 /* openat2 */, 0, 0xffffffff, (uint32_t)sandbox_tree.root);
	list(program, share_reads, COUNT(share_reads), SECCOMP_RET_ALLOW);
	if (sandbox_tree.writable)
		list(program, share_writes, COUNT(share_writes), SECCOMP_RET_ALLOW);
}

static void build(struct program *program, uint32_t profile)
{
	bool fuzzer = profile == VMM_PROFILE_FUZZER;

	load(program, offsetof(struct seccomp_data, arch));
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, AUDIT_ARCH_X86_64);
	give(program, SECCOMP_RET_KILL_PROCESS);
	load_number(program);
	emit(program, BPF_JMP | BPF_JGE | BPF_K, 0, 1, X32_BIT);
	give(program, SECCOMP_RET_KILL_PROCESS);

	// The guest, by descriptors that are open already. First: each entry is checked, and the
	// kernel remembers no answer that depends on arguments.
	if (profile == VMM_PROFILE_VM || fuzzer)
		for_bits(program, SYS_ioctl, 1, 0xff00, KVM_IOCTL_TYPE);
	list(program, always, sizeof(always) / sizeof(*always), SECCOMP_RET_ALLOW);
	// No code is made executable but by who has it already; the software engine's
	// buffer for translated code is one mapping, made anew at a reset.
	if (profile == VMM_PROFILE_VM_SOFTWARE || fuzzer)
		for_value(program, SYS_mmap, 2, PROT_READ | PROT_WRITE | PROT_EXEC);
	when(program, SYS_mmap, 2, PROT_EXEC, 0);
	when(program, SYS_mprotect, 2, PROT_EXEC, 0);
	// Threads, but no processes. clone3's flags can't be seen: without it glibc takes clone.
	when(program, SYS_clone, 0, CLONE_THREAD | CLONE_VM, CLONE_THREAD | CLONE_VM);
	only(program, SYS_clone3, 1);
	give(program, SECCOMP_RET_ERRNO | ENOSYS);
	// Kicks of our own threads.
	when(program, SYS_tgkill, 0, 0xffffffff, (uint32_t)getpid());
	if (profile == VMM_PROFILE_VM || profile == VMM_PROFILE_VM_SOFTWARE) {
		const int debuggers[] = { SYS_accept4 };

		// What copies are made from, and whether it can't change any more.
		for_values(program, SYS_fcntl, (const int[]){ 1, 2 },
			   (const uint32_t[]){ F_ADD_SEALS, VMM_SEALS });
		for_value(program, SYS_fcntl, 1, F_GET_SEALS);
		// What the guest takes from its tap, when it has said so.
		for_value(program, SYS_ioctl, 1, TUNSETOFFLOAD);
		// Debuggers, at the one listening socket that it was given; it can make none.
		list(program, debuggers, COUNT(debuggers), SECCOMP_RET_ALLOW);
	}
	if (profile == VMM_PROFILE_SHARE)
		share(program);
	// What a worker tells its parent, on a socket that was open; it can make none.
	if (fuzzer)
		list(program, (const int[]){ SYS_sendto }, 1, SECCOMP_RET_ALLOW);
	if (fuzzer && sandbox_tree.root >= 0)
		list(program, fuzzer_files, COUNT(fuzzer_files), SECCOMP_RET_ALLOW);
	// Packets, many at once.
	if (profile == VMM_PROFILE_SWITCH) {
		const int packets[] = { SYS_recvmmsg, SYS_sendmmsg };

		list(program, packets, 2, SECCOMP_RET_ALLOW);
	}
	// Names of threads and mappings, an engine's timer slack.
	for_value(program, SYS_prctl, 0, PR_SET_NAME);
	for_value(program, SYS_prctl, 0, PR_SET_TIMERSLACK);
	for_value(program, SYS_prctl, 0, PR_SET_VMA);
	// Whether a descriptor blocks.
	for_value(program, SYS_fcntl, 1, F_GETFL);
	for_value(program, SYS_fcntl, 1, F_SETFL);
	// Limits are read, not set: the third argument is a pointer, null in both halves.
	only(program, SYS_prlimit64, 6);
	load_argument(program, 2);
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 3, 0);
	load(program, offsetof(struct seccomp_data, args) + 8 * 2 + 4);
	emit(program, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0);
	give(program, SECCOMP_RET_ALLOW);
	load_number(program);

	bool trace = program->refuse == SECCOMP_RET_TRAP;

	list(program, absent, sizeof(absent) / sizeof(*absent),
	     trace ? SECCOMP_RET_TRAP : SECCOMP_RET_ERRNO | EACCES);
	list(program, attacks, sizeof(attacks) / sizeof(*attacks),
	     trace ? SECCOMP_RET_TRAP : SECCOMP_RET_KILL_PROCESS);
	give(program, program->refuse);
}

// VMM_SANDBOX_TRACE: each refused call is said, and then refused.
static void on_refused(int number, siginfo_t *info, void *context)
{
	ucontext_t *registers = context;
	greg_t *r = registers->uc_mcontext.gregs;
	char line[160];
	int length = snprintf(line, sizeof(line), "sandbox: system call %d (0x%llx, 0x%llx, 0x%llx)\n",
			      info->si_syscall, r[REG_RDI], r[REG_RSI], r[REG_RDX]);

	(void)number;
	if (write(2, line, (size_t)length) < 0) {
		// Then nobody is told.
	}
	r[REG_RAX] = -EPERM;
}

int sandbox_filter(uint32_t profile)
{
	struct program program = { .refuse = SECCOMP_RET_ERRNO | EPERM };

	if (getenv("VMM_SANDBOX_TRACE")) {
		struct sigaction action = { .sa_sigaction = on_refused, .sa_flags = SA_SIGINFO };

		program.refuse = SECCOMP_RET_TRAP;
		sigaction(SIGSYS, &action, NULL);
	}
	build(&program, profile);
	if (program.length >= LONGEST)
		return E2BIG;

	struct sock_fprog filter = { .len = program.length, .filter = program.code };
	long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &filter);

	// A positive result is a thread that could not be brought along.
	return result == 0 ? 0 : result < 0 ? errno : EAGAIN;
}
