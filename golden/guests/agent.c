// SPDX-License-Identifier: ISC
/*
 * agent.c: process 1 of a Linux that plays vmmci's driver, since Debian's kernel has
 * none. Freestanding: no C library.
 *
 * It says "agent: ready", polls for commands, and does what it is asked: to reboot,
 * by resetting the machine (built with -DSTUBBORN it only says that it has seen it);
 * to set the clock, by printing the host's time.
 */
typedef unsigned int u32;

static long call(long number, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
}

static void outl(unsigned short port, u32 value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static void outb(unsigned short port, unsigned char value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u32 inl(unsigned short port)
{
	u32 value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void say(const char *text)
{
	long length = 0;

	while (text[length])
		length++;
	call(1, 1, (long)text, length, 0);
}

static void say_number(u32 number)
{
	char text[12] = { 0 };
	int at = 11;

	do {
		text[--at] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	say(text + at);
}

static u32 configuration(u32 device, u32 offset)
{
	outl(0xcf8, 0x80000000u | device << 11 | offset);
	return inl(0xcfc);
}

void _start(void)
{
	unsigned short base = 0;
	long tenth[2] = { 0, 100000000 };

	call(172, 3, 0, 0, 0); // iopl
	for (u32 device = 0; device < 32; device++) {
		if (configuration(device, 0) == 0x07770b5d)
			base = configuration(device, 0x10) & 0xfffc;
	}
	outb(base + 0x12, 0);
	outb(base + 0x12, 3);
	outl(base + 4, inl(base));
	outb(base + 0x12, 7);
	say("agent: ready\n");
	for (;;) {
		u32 command = inl(base + 0x14);

		if (command == 2) {
			say("agent: asked to go\n");
			outl(base + 0x14, command);
#ifndef STUBBORN
			call(162, 0, 0, 0, 0); // sync
			say("agent: bye\n");
			call(169, 0xfee1dead, 672274793, 0x01234567, 0); // reboot
#endif
		} else if (command == 3) {
			outl(base + 0x14, command);
			say("agent: the time is ");
			say_number(inl(base + 0x18));
			say("\n");
		}
		call(35, (long)tenth, 0, 0, 0); // nanosleep
	}
}
