// SPDX-License-Identifier: ISC
/*
 * exit_loop.c: the vCPU loop of src/vmd/vcpu.ts as one would write it in C: run,
 * decode, dispatch by port to a device, answer. The devices are those that the
 * guest of bench/loop.ts uses: a serial port, a debug port, isa-debug-exit.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/vmm.h"

struct machine;

struct device {
	uint32_t (*read)(struct machine *, uint16_t port);
	void (*write)(struct machine *, uint16_t port, uint32_t value);
	uint8_t width;
};

struct machine {
	struct vmm *vmm;
	struct kvm_run *run;
	int (*vmm_run)(struct vmm *);
	int (*vmm_interrupt)(struct vmm *, uint32_t);
	uint16_t slot[0x10000];
	struct device device[8];
	bool irq;	/* the interrupt controller's output */
	bool ended;
	uint8_t ier, lcr, mcr, scr, transmitted;
	uint64_t exits;
	uint32_t debug_bytes;
};

static void serial_update(struct machine *m)
{
	m->irq = (m->mcr & 8) && (m->ier & 2) && m->transmitted;
}

static uint32_t serial_read(struct machine *m, uint16_t port)
{
	switch (port & 7) {
	case 1:
		return m->ier;
	case 3:
		return m->lcr;
	case 4:
		return m->mcr;
	case 5:
		return 0x60;
	case 7:
		return m->scr;
	}
	return 0;
}

static void serial_write(struct machine *m, uint16_t port, uint32_t value)
{
	switch (port & 7) {
	case 0:
		m->transmitted = 1;
		break;
	case 1:
		m->ier = value & 0xf;
		break;
	case 3:
		m->lcr = value & 0xff;
		break;
	case 4:
		m->mcr = value & 0x1f;
		break;
	case 7:
		m->scr = value & 0xff;
		break;
	}
	serial_update(m);
}

static uint32_t debug_read(struct machine *m, uint16_t port)
{
	(void)m, (void)port;
	return 0xe9;
}

static void debug_write(struct machine *m, uint16_t port, uint32_t value)
{
	(void)port, (void)value;
	m->debug_bytes++;
}

static uint32_t exit_read(struct machine *m, uint16_t port)
{
	(void)m, (void)port;
	return 0;
}

static void exit_write(struct machine *m, uint16_t port, uint32_t value)
{
	(void)port, (void)value;
	m->ended = true;
}

static uint32_t ones(uint32_t size)
{
	return size == 4 ? ~0u : (1u << 8 * size) - 1;
}

static uint32_t port_read(struct machine *m, uint16_t port, uint32_t size)
{
	struct device *device = &m->device[m->slot[port]];
	uint32_t value = 0;

	if (!device->read)
		return ones(size);
	if (size <= device->width)
		return device->read(m, port) & ones(size);
	for (uint32_t i = 0; i < size; i += device->width)
		value |= port_read(m, (uint16_t)(port + i), device->width) << 8 * i;
	return value;
}

static void port_write(struct machine *m, uint16_t port, uint32_t size, uint32_t value)
{
	struct device *device = &m->device[m->slot[port]];

	if (!device->write)
		return;
	if (size <= device->width) {
		device->write(m, port, value);
		return;
	}
	for (uint32_t i = 0; i < size; i += device->width)
		port_write(m, (uint16_t)(port + i), device->width,
			   value >> 8 * i & ones(device->width));
}

static void io(struct machine *m)
{
	struct kvm_run *run = m->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		uint32_t value = 0;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, run->io.size);
			port_write(m, run->io.port, run->io.size, value);
		} else {
			value = port_read(m, run->io.port, run->io.size);
			memcpy(data, &value, run->io.size);
		}
	}
}

/* Until the guest ends a loop: 1. 0 for an exit that it doesn't make. */
int exit_loop_run(struct machine *m)
{
	struct kvm_run *run = m->run;

	m->ended = false;
	while (!m->ended) {
		if (m->irq && run->ready_for_interrupt_injection)
			m->vmm_interrupt(m->vmm, 0x24);
		run->request_interrupt_window = m->irq;
		if (m->vmm_run(m->vmm) < 0)
			return 0;
		m->exits++;
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			io(m);
			break;
		case KVM_EXIT_MMIO: /* nobody's: writes go nowhere */
			if (!run->mmio.is_write)
				memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
			break;
		case KVM_EXIT_INTR:
			break;
		default:
			return 0;
		}
	}
	return 1;
}

static void add(struct machine *m, uint16_t first, uint32_t count, uint16_t slot, struct device device)
{
	m->device[slot] = device;
	for (uint32_t i = 0; i < count; i++)
		m->slot[first + i] = slot;
}

/* On an engine that is open already, by the library that it is of. */
struct machine *exit_loop_open(const char *library, struct vmm *vmm)
{
	void *handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
	struct machine *m = calloc(1, sizeof(*m));
	struct kvm_run *(*run_page)(struct vmm *);

	if (!handle || !m)
		return NULL;
	m->vmm = vmm;
	*(void **)&m->vmm_run = dlsym(handle, "vmm_run");
	*(void **)&m->vmm_interrupt = dlsym(handle, "vmm_interrupt");
	*(void **)&run_page = dlsym(handle, "vmm_run_page");
	m->run = run_page(vmm);
	add(m, 0x3f8, 8, 1, (struct device){ serial_read, serial_write, 1 });
	add(m, 0xe9, 1, 2, (struct device){ debug_read, debug_write, 1 });
	add(m, 0xf4, 4, 3, (struct device){ exit_read, exit_write, 4 });
	return m;
}
