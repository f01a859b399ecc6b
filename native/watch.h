/* SPDX-License-Identifier: ISC */
/* watch.h: what other threads of libvmm.so have of the watching thread's target. */
#ifndef WATCH_H
#define WATCH_H

#pragma GCC visibility push(hidden)

/* Starts a thread that nobody joins. 0 or an errno. */
int watch_start_thread(void *(*run)(void *), void *argument);

/* Nudges the vCPU that vmm_watch_target named, if there is one. */
void watch_nudge(void);

#pragma GCC visibility pop

#endif
