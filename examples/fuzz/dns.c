/* SPDX-License-Identifier: ISC */
/*
 * dns.c: prints the questions of a DNS message (RFC 1035, 4.1), or is fuzzed: a parser as many
 * are, with a bug that was in many. Names may end in a pointer to a name before them (4.1.4), and
 * what they come to is not counted.
 *
 *	dns <message	prints
 *	dns fuzz	asks the fuzzer for messages
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <ucontext.h>
#include <unistd.h>

#include "vmd-fuzz.h"

#define HEADER 12
#define NAME 255

struct question {
	char name[NAME + 1];
	uint16_t type, class;
};

static int read16(const uint8_t *message, size_t size, size_t at, uint16_t *value)
{
	if (at + 2 > size)
		return -1;
	*value = (uint16_t)(message[at] << 8 | message[at + 1]);
	return 0;
}

/* A name at `at`, with dots. Returns where what comes after it begins; 0: there is none. */
static size_t read_name(const uint8_t *message, size_t size, size_t at, char *name)
{
	size_t end = 0, length = 0;

	while (at < size && message[at]) {
		uint8_t label = message[at];

		if ((label & 0xc0) == 0xc0) {
			if (at + 2 > size)
				return 0;
			if (!end)
				end = at + 2;
			at = (size_t)(label & 0x3f) << 8 | message[at + 1];
			continue;
		}
		if (label > 63 || at + 1 + label > size)
			return 0;
		/* The bug: nothing says that it fits. */
		memcpy(name + length, message + at + 1, label);
		length += label;
		name[length++] = '.';
		at += 1 + (size_t)label;
	}
	if (at >= size)
		return 0;
	name[length] = 0;
	return end ? end : at + 1;
}

static int read_question(const uint8_t *message, size_t size, size_t *at, struct question *question)
{
	size_t next = read_name(message, size, *at, question->name);

	if (!next || read16(message, size, next, &question->type) ||
	    read16(message, size, next + 2, &question->class))
		return -1;
	*at = next + 4;
	return 0;
}

/* Returns how many questions there are; -1: it is no query. */
static int read_message(const uint8_t *message, size_t size, int print)
{
	uint16_t flags, count;
	size_t at = HEADER;

	if (read16(message, size, 2, &flags) || read16(message, size, 4, &count))
		return -1;
	if (flags & 0x8000 || (flags >> 11 & 15) != 0)
		return -1;
	for (int i = 0; i < count; i++) {
		struct question question;

		if (read_question(message, size, &at, &question))
			return -1;
		if (print)
			printf("%s type %u class %u\n", question.name, question.type, question.class);
	}
	return count;
}

/* Tells the fuzzer where it was, instead of dying. */
static void crashed(int signal, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)info;
	vmd_fuzz_crash_at((unsigned long)signal, (unsigned long)registers[REG_RIP],
			  (unsigned long)registers[REG_RBP]);
}

/*
 * So does -fstack-protector-strong, in place of the C library's message. The callers' frames are
 * overwritten: who they were is not asked, or each input would be another crash.
 */
void __stack_chk_fail(void)
{
	/* The call is the function's last instruction. */
	vmd_fuzz_crash_at(0x57ac, (unsigned long)__builtin_return_address(0) - 1, 0);
	abort();
}

static int fuzz(void)
{
	static uint8_t message[512] = { 1 };
	static uint8_t stack[16384];
	const stack_t alternative = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_sigaction = crashed, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };

	sigaltstack(&alternative, NULL);
	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &action, NULL);
	if (iopl(3)) {
		perror("iopl");
		return 1;
	}
	read_message(message, vmd_fuzz_ready(message, sizeof(message)), 0);
	vmd_fuzz_done();
	return 0;
}

int main(int argc, char **argv)
{
	static uint8_t message[512];
	ssize_t size;

	if (argc > 1 && !strcmp(argv[1], "fuzz"))
		return fuzz();
	size = read(0, message, sizeof(message));
	return size < 0 || read_message(message, (size_t)size, 1) < 0;
}
