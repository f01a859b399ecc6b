/* SPDX-License-Identifier: ISC */
/*
 * vmm.h: the one contract between TypeScript (src/vmm) and native code.
 *
 * libvmm.so implements it on /dev/kvm, libvmm-unicorn.so on libunicorn. Both
 * export the same engine functions; libvmm.so exports the host calls as well.
 *
 * Conventions
 *  - Functions that return int give 0 (or a count) on success and -errno on
 *    failure. Functions that take (why, size) write one sentence there when
 *    they fail, always terminated.
 *  - Exits are Linux's struct kvm_run, registers are kvm_regs, kvm_sregs, ...
 *    (linux/kvm.h, Documentation/virt/kvm/api.rst), for both engines.
 *  - Guest time is nanoseconds since the machine was made, see vmm_clock.
 *  - One vCPU per engine. Every call but vmm_kick is made by the thread that
 *    called vmm_open.
 */
#ifndef VMM_H
#define VMM_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>

#define VMM_ABI 1
#define VMM_PAGE 4096u
#define VMM_MAX_SLOTS 16
#define VMM_MAX_MSRS 32

/* What an engine can do beyond the common ground; vmm_capabilities(). */
enum vmm_capability {
	VMM_CAP_DIRTY_LOG = 1u << 0,	/* vmm_dirty works */
	VMM_CAP_EXACT_DIRTY = 1u << 1,	/* ... and reports only written pages */
	VMM_CAP_VIRTUAL_TIME = 1u << 2, /* VMM_CLOCK_VIRTUAL, warped TSC */
	VMM_CAP_MSR_EXITS = 1u << 3,	/* KVM_EXIT_X86_RDMSR/WRMSR */
	VMM_CAP_SYNC_REGS = 1u << 4,	/* kvm_valid_regs in the run page */
	VMM_CAP_XSAVE = 1u << 5,	/* AVX and later state */
	VMM_CAP_DEBUG = 1u << 6,	/* vmm_debug: steps, execution breakpoints */
	VMM_CAP_WATCHPOINTS = 1u << 7,	/* ... and of writes and accesses */
	VMM_CAP_READ_WATCHPOINTS = 1u << 8, /* ... and of reads alone */
	VMM_CAP_POINT = 1u << 9,	/* vmm_point_*, vmm_fuzz_run */
	VMM_CAP_COVERAGE = 1u << 10,	/* vmm_coverage_* */
	VMM_CAP_TOUCHED = 1u << 11,	/* vmm_touched */
};

/*
 * The guest's clock. It lies in the machine image, so that a copy of the image
 * holds the time too. The vCPU thread alone writes it.
 *
 * Real:    guest time = CLOCK_MONOTONIC - origin + warp
 * Virtual: guest time = blocks * ns_per_block + warp
 *
 * The TSC counts guest nanoseconds (1 GHz) where the engine can do so, unless vmm_set_tsc_khz
 * says otherwise.
 */
enum vmm_clock_mode { VMM_CLOCK_REAL = 0, VMM_CLOCK_VIRTUAL = 1 };

struct vmm_clock {
	int64_t origin;		/* ns of CLOCK_MONOTONIC */
	int64_t warp;		/* ns */
	uint64_t blocks;	/* translated blocks entered, virtual mode */
	uint32_t mode;		/* enum vmm_clock_mode */
	uint32_t ns_per_block;
};

/* A range of guest-physical memory. Anything outside all slots is MMIO. */
#define VMM_SLOT_READONLY 1u /* writes exit as MMIO */
struct vmm_slot {
	uint64_t gpa;
	uint64_t size;
	uint64_t host; /* address in this process */
	uint32_t flags;
	uint32_t reserved;
};

struct vmm_config {
	uint32_t abi; /* VMM_ABI */
	uint32_t slots;
	struct vmm_slot slot[VMM_MAX_SLOTS];
	uint64_t clock; /* struct vmm_clock * */
};

/* All of a CPU's registers: what a machine image keeps of it. */
struct vmm_cpu {
	struct kvm_regs regs;			/* 0 */
	struct kvm_sregs sregs;			/* 144 */
	struct kvm_debugregs debugregs;		/* 456 */
	struct kvm_vcpu_events events;		/* 584 */
	struct kvm_fpu fpu;			/* 648 */
	uint64_t xcr0;				/* 1064 */
	uint32_t msr_count;			/* 1072 */
	uint32_t halted;			/* 1076 */
	struct kvm_msr_entry msrs[VMM_MAX_MSRS]; /* 1080 */
	uint32_t xsave_size;			/* 1592: bytes used below, 0 = none */
	uint32_t reserved;
	uint8_t xsave[4096];			/* 1600 */
};

struct vmm; /* one VM with one vCPU */

/* ------------------------------------------------- engine, in both libraries */

/* The header's VMM_ABI as built. */
uint32_t vmm_abi(void);

/* Can this engine be opened here? 0, or -errno and a sentence that says what
 * is missing. Opens nothing that stays. */
int vmm_probe(char *why, size_t size);

/* A short version string: "KVM API 12", "libunicorn 2.0.1". */
int vmm_version(char *text, size_t size);

uint32_t vmm_capabilities(struct vmm *);

/* NULL on failure, with the sentence in why. */
struct vmm *vmm_open(const struct vmm_config *, char *why, size_t size);
void vmm_close(struct vmm *);

/* The page (and the I/O data page behind it) in which exits are reported. */
struct kvm_run *vmm_run_page(struct vmm *);

/* Bytes mapped at vmm_run_page. */
uint32_t vmm_run_size(struct vmm *);

/*
 * Runs the guest until it needs help: the exit is in the run page. Answers
 * (IN data, MMIO read data, MSR values) are written there before the next call.
 * 0: an exit. A kick or a passed deadline is KVM_EXIT_INTR (also for the
 * engine that returns EINTR for it). Other failures: -errno.
 */
int vmm_run(struct vmm *);

/* Asks vmm_run to return as soon as possible, now or at its next call. May be
 * called from any thread; wakes vmm_wait too. */
void vmm_kick(struct vmm *);

/* The same, for news that its thread looks for before it enters again: it interrupts
 * nothing else that the thread does. */
void vmm_nudge(struct vmm *);

/* Kick when guest time reaches this; INFINITY for never. */
int vmm_set_deadline(struct vmm *, double guest_ns);

/*
 * With virtual time: vmm_run stops, too, before a block of code that holds one of these
 * linear addresses, in whatever address space: an exit KVM_EXIT_INTR ahead of the
 * deadline. It costs no guest time, so a run that repeats is no other for it. The next
 * vmm_run goes on. At most VMM_BREAK_BLOCKS; -ENOTSUP: the engine has no blocks.
 */
#define VMM_BREAK_BLOCKS 64
int vmm_break_blocks(struct vmm *, const uint64_t *addresses, uint32_t count);

/* Current guest time, by the config's vmm_clock. */
double vmm_now(struct vmm *);

/*
 * Sleeps until guest time `until` (INFINITY: for ever), a kick, or input on
 * one of the descriptors. Returns 1 for a kick, 0 otherwise.
 */
int vmm_wait(struct vmm *, double until, const int32_t *fds, uint32_t count);

/* Injects an external interrupt; only when the run page's
 * ready_for_interrupt_injection is 1. */
int vmm_interrupt(struct vmm *, uint32_t vector);
int vmm_nmi(struct vmm *);

int vmm_get_cpu(struct vmm *, struct vmm_cpu *);
int vmm_set_cpu(struct vmm *, const struct vmm_cpu *);

/* How fast the guest's TSC counts, kHz; 0: the engine can't tell. */
uint32_t vmm_tsc_khz(struct vmm *);
/* Lets it count that fast; before vmm_set_cpu, and before the guest runs. -ENOTSUP: the
 * host's TSC counts otherwise, and can't be scaled. */
int vmm_set_tsc_khz(struct vmm *, uint32_t khz);

/* CPUID that the engine can offer; returns the number of entries. */
int vmm_supported_cpuid(struct vmm *, struct kvm_cpuid_entry2 *, uint32_t max);
int vmm_set_cpuid(struct vmm *, const struct kvm_cpuid_entry2 *, uint32_t count);

/*
 * Pages of a slot written by the guest since the last call, one bit a page,
 * into `bitmap` (size bits rounded up to 64, as bytes). Returns the number of
 * dirty pages. Host writes are not in it unless vmm_written reported them.
 * An engine without VMM_CAP_EXACT_DIRTY starts logging at the first call, which
 * reports every page.
 */
int vmm_dirty(struct vmm *, uint32_t slot, uint8_t *bitmap, size_t size);
/* Nobody asks any more: an engine that started logging ends it, and the next call is the first. */
int vmm_dirty_end(struct vmm *);

/*
 * Pages of a slot that the guest has read, written, or fetched or walked through since the
 * last call, as of vmm_dirty; what the host does isn't in it. Nothing is noted until
 * vmm_touched_begin, nor behind vmm_touched_end. -ENOTSUP: the engine can't see reads.
 */
int vmm_touched_begin(struct vmm *);
int vmm_touched(struct vmm *, uint32_t slot, uint8_t *bitmap, size_t size);
void vmm_touched_end(struct vmm *);

/* The host wrote guest memory: cached translations of it must go. */
int vmm_written(struct vmm *, uint64_t gpa, uint64_t length);

/*
 * A debugger outside of the guest. What it waits for is KVM_EXIT_DEBUG, with debug.arch
 * as KVM fills it: exception 1; pc, the linear address of the next instruction; in dr6
 * bit i where entry i of the list was met (of the first four; watchpoints must be among
 * them), and BS (0x4000) at the end of a step.
 *
 * An execution breakpoint stops before its instruction, and does so again when the guest
 * goes on from there: who wants to get over it steps. A watchpoint stops behind the
 * instruction. A step runs one instruction, whatever execution breakpoint is on it; HLT
 * is KVM_EXIT_HLT then, or (some KVMs) a step like others, and isn't waited at. KVM's step
 * of an instruction that faults ends when the guest's handler returns. The guest's own debug registers stay its own where the engine
 * can tell them apart (KVM: only those that are read).
 *
 * Breakpoints are linear addresses, and hold in every address space. The list takes the
 * place of the one before; what it changes takes effect with the next vmm_run.
 * -ENOSPC: more than the engine has (KVM: 4 in all). -ENOTSUP: not of this kind.
 * -EINVAL: length isn't 1, 2, 4 or 8, or the address isn't a multiple of it.
 */
enum vmm_debug_flags { VMM_DEBUG_STEP = 1 };

enum vmm_break_kind {
	VMM_BREAK_EXECUTE = 0,
	VMM_BREAK_WRITE = 1,
	VMM_BREAK_READ = 2,
	VMM_BREAK_ACCESS = 3,
};

#define VMM_MAX_BREAKPOINTS 128

struct vmm_breakpoint {
	uint64_t address;
	uint32_t kind;	 /* enum vmm_break_kind */
	uint32_t length; /* bytes; 1 for execution */
};

int vmm_debug(struct vmm *, uint32_t flags, const struct vmm_breakpoint *, uint32_t count);

/* ------------------------------------------------------ host calls, libvmm.so */

/* A private mapping of `size` bytes, aligned to 2 MiB, pages allocated when
 * touched, and huge behind the first `head` bytes where the host can. Returns
 * its address or -errno. */
int64_t vmm_memory_map(uint64_t size, uint64_t head);
int vmm_memory_unmap(uint64_t address, uint64_t size);
/* Bytes of the mapping that have pages behind them, or -errno. */
int64_t vmm_memory_resident(uint64_t address, uint64_t size);
/* Gives whole pages of a mapping back: they read as zero, and take memory when written.
 * mapped: a file may be behind them (vmm_memory_overlay). */
int vmm_memory_discard(uint64_t address, uint64_t size, int32_t mapped);

/* This process's pagemap, for vmm_memory_used; a descriptor or -errno. */
int vmm_pagemap_open(void);
/* Which pages hold anything but zeros, one bit each, into `bitmap` (pages rounded up to
 * 64, as bits). Pages that nobody has touched are not looked at, if a descriptor of
 * vmm_pagemap_open says so: not for memory with a file behind it, where it is to be -1.
 * Returns how many there are. */
int64_t vmm_memory_used(uint64_t address, uint64_t pages, uint8_t *bitmap, int32_t pagemap);
/* Whole pages of a mapping come from a file from now on, when they are touched; writes
 * don't go there. Core dumps show them until vmm_memory_hide. */
int vmm_memory_overlay(uint64_t address, uint64_t size, int32_t fd, uint64_t offset);
/* Reads a file's bytes from an offset on into pieces of memory, one after the other:
 * `count` pairs of address and size. Returns 0, -errno, or -ENODATA where it ends. */
int vmm_memory_read(const uint64_t *pieces, uint32_t count, int32_t fd, uint64_t offset);
/* Whole pages of a mapping are there as if somebody had written what they hold. Linux 5.14. */
int vmm_memory_populate(uint64_t address, uint64_t size);
int vmm_memory_hide(uint64_t address, uint64_t size);
/*
 * Has pages that come from files read and mapped by a thread, the first piece first: pieces
 * are pairs of an address and bytes, whole pages. NULL: it can't be had. vmm_prefetch_end
 * comes before their memory goes, and waits for no more than a piece of a MiB;
 * vmm_prefetch_ended: whether all is done.
 */
struct vmm_prefetch;
struct vmm_prefetch *vmm_prefetch(const uint64_t *pieces, uint32_t count);
int vmm_prefetch_ended(struct vmm_prefetch *);
void vmm_prefetch_end(struct vmm_prefetch *);
/* A file's size, the seconds and nanoseconds of its last change, and its mode. */
int vmm_file_state(int32_t fd, double state[4]);
/* A file in memory, without a name; a descriptor or -errno. */
int vmm_memory_file(uint64_t size);
/* Of fcntl(2): all that there are for what is written. */
#define VMM_SEALS (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL)
/* What it holds, and its size, are nobody's to change any more, whoever has it open. */
int vmm_memory_seal(int32_t fd);
/* Whether that was done: 1, 0, or -errno where it can't be. */
int vmm_memory_sealed(int32_t fd);

/* The guest that tells a KVM that runs kernels from one that doesn't: its bytes,
 * see selftest.c. */
const uint8_t *vmm_selftest(uint32_t *size);

/* What of a descriptor can be waited for. */
enum vmm_watch_events { VMM_WATCH_INPUT = 1, VMM_WATCH_ROOM = 2 };

/*
 * Sockets between vmd's processes. A pair's ends don't block and close on exec.
 * stream 0: messages keep their bounds (SOCK_SEQPACKET); else bytes (SOCK_STREAM).
 */
int vmm_socketpair(int32_t stream, int32_t fds[2]);

/* A message with at most 64 descriptors; never blocks, raises no signal.
 * Returns the bytes sent, or -errno. */
int64_t vmm_send(int32_t fd, const void *data, uint64_t length, const int32_t *fds, uint32_t count);

/* Returns the bytes received, 0 at the end, or -errno: -EMSGSIZE for a message that
 * did not fit. fds gets the descriptors that came, then -1. */
int64_t vmm_receive(int32_t fd, void *data, uint64_t size, int32_t *fds, uint32_t max);

/* read(2) and write(2), with -errno. */
int64_t vmm_read(int32_t fd, void *data, uint64_t size);
int64_t vmm_write(int32_t fd, const void *data, uint64_t length);

/* Sleeps until one of at most 256 descriptors has what `events` asks for it (bits of
 * vmm_watch_events), or has ended, or until `timeout` ms are over (-1: for ever).
 * `events` then says what each has. Returns how many have something, or -errno. */
int vmm_poll(const int32_t *fds, int32_t *events, uint32_t count, int32_t timeout);

/* A socket that listens at a path, with this mode from the first moment on. */
int vmm_listen(const char *path, uint32_t mode);

/* The next connection's descriptor, or -EAGAIN. */
int vmm_accept(int32_t fd);

/* flock(2), without waiting: 1 exclusive, 0 shared, -1 no more. */
int vmm_lock(int32_t fd, int32_t how);

/* A stream socket at an abstract name: listening, without blocking, or else connected. */
int vmm_abstract(const char *name, int32_t listening);

/* A listening TCP socket at a numeric address, IPv4 or IPv6. */
int vmm_listen_tcp(const char *address, uint32_t port);

/* A blocking connection to a unix stream socket. */
int vmm_connect(const char *path);

/* Such a connection that doesn't block; -EAGAIN when its listener is busy. */
int vmm_connect_now(const char *path);

/* dup(2), closed on exec. */
int vmm_duplicate(int32_t fd);

enum vmm_socket_modes { VMM_SOCKET_CONNECT = -1, VMM_SOCKET_REMOVE = -2 };

/* vmm_connect_now, unlink(2), or with a `mode` that isn't negative vmm_listen, with the
 * rights and the name of another user, for the length of the call; needs root. */
int vmm_socket_as(const char *path, int32_t mode, uint32_t uid, uint32_t gid, const uint32_t *groups,
		  uint32_t count);

/* shutdown(2). what 1: nothing is received any more, 2: nothing sent, 3: both. */
int vmm_shutdown(int32_t fd, int32_t what);

/* The uid, gid and pid of who connected. */
int vmm_peer(int32_t fd, int32_t ids[3]);

/* A pseudo terminal in raw mode: master and slave, and the slave's name. */
int vmm_pty(int32_t fds[2], char *name, uint64_t size);

/* The calling thread computes little, and is to run as soon as it wakes: native/prompt.c. */
int vmm_prompt(void);

/* A thread runs when nobody else wants to, or as others do, which takes root's rights. */
int vmm_idle(int32_t thread, int32_t idle);

/* Bytes that hold a terminal's mode. */
#define VMM_TERMINAL_SIZE 64

/* Keys come as they are typed, and aren't shown; -ENOTTY: fd is no terminal. Its mode was `before`. */
int vmm_terminal_raw(int32_t fd, uint8_t before[VMM_TERMINAL_SIZE]);

/* A terminal has the mode that it had. */
int vmm_terminal_restore(int32_t fd, const uint8_t before[VMM_TERMINAL_SIZE]);

/* open(2) with the rights of another user, for the length of the call; needs root. */
int vmm_open_as(const char *path, int32_t flags, uint32_t uid, uint32_t gid, const uint32_t *groups,
		uint32_t count);

/* Lets go of whatever standard input, output and error are. */
int vmm_silence(void);

/* An open file's size, bytes, or -errno. */
int64_t vmm_file_size(int32_t fd);

/* A file's bytes, read-only; its address, or -errno. */
int64_t vmm_file_map(int32_t fd, uint64_t size);

/*
 * A thread that waits for descriptors, sets the word whose address this returns
 * (NULL: it could not be started) and kicks the target. One a process.
 */
int32_t *vmm_watch_open(void);

/* Waits for this of a descriptor, each arrival told once; 0: for nothing any more. */
int vmm_watch(int32_t fd, int32_t events);

/* Kicks once, so much later; in place of what was asked for before. */
int vmm_watch_later(uint32_t us);

/* Whom to kick: an engine of `library` (a path, loaded already); NULL for nobody, after
 * which no kick is under way. */
int vmm_watch_target(const char *library, struct vmm *vmm);

/*
 * Threads that do file I/O for the guest. All numbers are doubles, as JavaScript has
 * them: none is 2^53 or more. One set of threads a process.
 */
#define VMM_IO_SLOTS 256
#define VMM_IO_SEGMENTS 128

enum vmm_io_operation {
	VMM_IO_READ = 0,	   /* preadv: the result is short at the file's end */
	VMM_IO_WRITE = 1,	   /* pwritev */
	VMM_IO_SYNC = 2,	   /* fdatasync */
	VMM_IO_DISCARD = 3,	   /* the range is needed no more; nothing may happen */
	VMM_IO_ZERO = 4,	   /* reads as zero, with no storage behind it if that can be */
	VMM_IO_ZERO_ALLOCATED = 5, /* reads as zero, with storage */
};

struct vmm_io_slot {
	double operation;
	double fd;
	double offset;
	double length; /* of the last three operations */
	double count;  /* segments, of the first two */
	double result; /* bytes or 0, or -errno */
	struct {
		double address; /* of this process */
		double length;
	} segment[VMM_IO_SEGMENTS];
};

struct vmm_io_shared {
	uint32_t done_tail; /* requests finished so far; wraps */
	uint32_t told;	    /* the vCPU was kicked; who looks for finished ones clears it first */
	uint32_t done[VMM_IO_SLOTS]; /* slots, in the order in which they finished */
	struct vmm_io_slot slot[VMM_IO_SLOTS];
};

/* Starts the threads. NULL: it could not be done. */
struct vmm_io_shared *vmm_io_open(uint32_t threads);

/* Reads and writes of fd that are aligned (their offset, and each segment's address and
 * length) go past the host's page cache, by another descriptor of the file that has
 * O_DIRECT; 0: they don't any more, since either is about to be closed. 0 or -errno. */
int vmm_io_direct(int32_t fd, int32_t direct, uint32_t alignment);
/* What O_DIRECT wants of a file's offsets, lengths and addresses, bytes; or -errno. */
int vmm_direct_alignment(int32_t fd);

/*
 * Hands a slot to the threads, or does what it says before it returns: then nobody is
 * kicked, and the caller looks. No slot may be handed over twice before it is done.
 */
void vmm_io_submit(uint32_t slot);

/* Waits until all is done. */
void vmm_io_wait(void);

/*
 * Frames between a descriptor that doesn't block and guest memory: a thread for each
 * interface. Frames begin with struct virtio_net_hdr of 12 bytes. Counters wrap.
 */
#define VMM_NET_SLOTS 256
#define VMM_NET_SEGMENTS 64
#define VMM_NET_HEADER 12 /* bytes */
#define VMM_NET_MERGE 64  /* buffers that one received frame may take */
#define VMM_NET_VECTOR 512
#define VMM_NET_INJECTED 16

enum vmm_net_kind {
	VMM_NET_TAP = 0,    /* IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, with a header of 12 bytes */
	VMM_NET_PACKET = 1, /* a socket that keeps bounds: header and frame */
	VMM_NET_STREAM = 2, /* a length of 32 bits, big-endian, and a frame without a header */
};

/* For what a sleeping thread has to be woken. */
enum vmm_net_asleep { VMM_NET_FRAMES = 1, VMM_NET_BUFFERS = 2 };

/* A frame to send, or a buffer to fill. Addresses are of this process. */
struct vmm_net_frame {
	double count;
	double header_length; /* bytes of `header` that come first; 0 for a buffer */
	uint8_t header[32];
	struct {
		double address;
		double length;
	} segment[VMM_NET_SEGMENTS];
};

struct vmm_net_received {
	uint32_t length; /* with its header */
	uint32_t buffers;
};

struct vmm_net_shared {
	/* JavaScript's */
	uint32_t tx_tail;
	uint32_t rx_tail;
	uint32_t rx_seen;
	uint32_t rx_merge; /* a frame may take several buffers */
	uint32_t stopped;  /* nothing is touched */
	/* the thread's */
	uint32_t tx_done;
	uint32_t tx_lost; /* frames that the host didn't take */
	uint32_t rx_done; /* frames */
	uint32_t rx_taken; /* buffers */
	uint32_t asleep;  /* enum vmm_net_asleep: vmm_port_wake is needed */
	uint32_t resting; /* it has seen `stopped` */
	uint32_t ended;	  /* errno: the descriptor gives no more */
	uint32_t told;	  /* the vCPU was kicked; who looks for what is done clears it first */
	uint32_t alone;	  /* the process has one processor: another thread is no help */
	struct vmm_net_received received[VMM_NET_SLOTS];
	struct vmm_net_frame tx[VMM_NET_SLOTS];
	struct vmm_net_frame rx[VMM_NET_SLOTS];
};

/* Starts the thread, stopped. NULL: it could not be done. */
struct vmm_net_shared *vmm_port_open(int32_t fd, uint32_t kind);
void vmm_port_wake(struct vmm_net_shared *);
/* Sends a frame of the ring at once, which must be empty: 0 or -errno. */
int vmm_port_now(struct vmm_net_shared *, uint32_t slot);
/* A frame of the host's own, without a header, for the guest: 0 or -errno. */
int vmm_port_inject(struct vmm_net_shared *, const uint8_t *frame, uint32_t length);
/* Waits a while until all frames of the ring are sent, then stops: nothing of the guest's is
 * touched any more when it returns; the rings tell what was done. */
void vmm_port_settle(struct vmm_net_shared *);
/* Nothing of the guest's is touched any more when it returns; the rings are empty. */
void vmm_port_stop(struct vmm_net_shared *);

/* Whether all threads of this process have one processor. */
int vmm_alone(void);

/* What a process is, for its sandbox. */
enum vmm_profile {
	VMM_PROFILE_VM = 0,	     /* a VM on KVM */
	VMM_PROFILE_CONTROL = 1,     /* reads the control socket's clients */
	VMM_PROFILE_VM_SOFTWARE = 2, /* a VM on the software engine */
	VMM_PROFILE_SWITCH = 3,	     /* forwards packets between VMs: net.h */
	VMM_PROFILE_SHARE = 4,	     /* serves a directory: see vmm_sandbox_tree */
	VMM_PROFILE_FUZZER = 5,	     /* runs a guest again and again; it has a directory, too */
};

/*
 * The directory that a process of VMM_PROFILE_SHARE or VMM_PROFILE_FUZZER keeps, and whether
 * it may write there: said before it is confined. Root is chrooted to a share's besides. A
 * fuzzer opens files by their paths, which Landlock alone keeps in its directory: where the
 * host has none, it can open what its user can. Without a directory it opens nothing.
 */
void vmm_sandbox_tree(int32_t root, int32_t writable);

/*
 * Gives up, for every thread and for ever: the user (uid and gid; -1: as they are),
 * capabilities, files, and the system calls that the profile does without. found gets
 * the Landlock ABI (0: the host has none) and the number of threads. On failure the
 * process may be half confined: it is to end.
 */
int vmm_sandbox(uint32_t profile, int64_t uid, int64_t gid, int32_t found[2], char *why,
		size_t size);

/* The host's Landlock ABI version, or -errno where it has none. */
int vmm_landlock_abi(void);

/*
 * Files beneath a directory, native/share.c. `root` is its descriptor (O_PATH does); a
 * path is relative to it, of names without "." and "..", or "" for itself. All return
 * -errno, and what can be had of a descriptor is 0 or its number.
 */

/* Mode, inode, size, links, uid, gid, device number, block size, blocks, then seconds
 * and nanoseconds of access, modification and change, and the file system's number. */
#define VMM_SHARE_STATUS 16
int vmm_share_status(int32_t fd, int64_t status[VMM_SHARE_STATUS]);

/* A descriptor to look at what is there, of whatever kind; a symbolic link itself. */
int vmm_share_look(int32_t root, const char *path, int64_t status[VMM_SHARE_STATUS]);

/* A regular file or directory; others are not opened. flags as in open(2), with
 * O_CREAT too. */
int vmm_share_open(int32_t root, const char *path, int32_t flags, uint32_t mode,
		   int64_t status[VMM_SHARE_STATUS]);
void vmm_share_close(int32_t fd);

/* The target of a link that vmm_share_look gave; its length. */
int64_t vmm_share_readlink(int32_t fd, void *target, uint64_t size);

/* What happens to a name in the directory at a path. */
int vmm_share_mkdir(int32_t root, const char *path, const char *name, uint32_t mode);
int vmm_share_symlink(int32_t root, const char *path, const char *name, const char *target);
int vmm_share_unlink(int32_t root, const char *path, const char *name, int32_t directory);
int vmm_share_rename(int32_t root, const char *path, const char *name, const char *new_path,
		     const char *new_name);
int vmm_share_link(int32_t root, const char *path, const char *name, const char *new_path,
		   const char *new_name);

/* What a descriptor refers to: also one of vmm_share_look. Set-id bits are dropped.
 * times: access and modification, seconds and nanoseconds as for utimensat(2). */
int vmm_share_chmod(int32_t fd, uint32_t mode);
int vmm_share_times(int32_t fd, const int64_t times[4]);

/* Of vmm_share_open only. list: struct linux_dirent64 from an offset that one of them
 * has, or 0. */
int vmm_share_truncate(int32_t fd, int64_t size);
int64_t vmm_share_read(int32_t fd, void *data, uint64_t size, int64_t offset);
int64_t vmm_share_write(int32_t fd, const void *data, uint64_t size, int64_t offset);
int vmm_share_sync(int32_t fd, int32_t only_data);
int64_t vmm_share_list(int32_t fd, int64_t offset, void *entries, uint64_t size);

/* The file system's type, block size, blocks, free ones, available ones, files, free
 * ones, longest name. */
#define VMM_SHARE_SPACE 8
int vmm_share_space(int32_t root, int64_t space[VMM_SHARE_SPACE]);

#endif
