/** Staggered start: so many VMs at a time, and a pause before the next. */
import type { Log } from "./log.ts";
import type { ManagedVm } from "./managed-vm.ts";

export interface Stagger {
  parallel: number;
  /** Seconds. */
  delay: number;
}

export class StaggeredStart {
  readonly #log: Log;
  #queue: ManagedVm[] = [];
  #timer: Timer | undefined;
  #stagger: Stagger = { parallel: 1, delay: 30 };

  constructor(log: Log) {
    this.#log = log;
  }

  /** Puts VMs at the end of the queue. */
  add(vms: readonly ManagedVm[], stagger: Stagger): void {
    this.#stagger = stagger;
    for (const vm of vms) {
      if (vm.isUp || this.#queue.includes(vm)) continue;
      vm.queued = true;
      this.#queue.push(vm);
    }
    if (this.#timer === undefined) this.#batch();
  }

  /** Takes VMs out: all, or those that are given. */
  remove(vms: readonly ManagedVm[] = this.#queue): void {
    const gone = new Set(vms);
    for (const vm of this.#queue) if (gone.has(vm)) vm.queued = false;
    this.#queue = this.#queue.filter((vm) => !gone.has(vm));
    if (this.#queue.length > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  get length(): number {
    return this.#queue.length;
  }

  #batch(): void {
    this.#timer = undefined;
    const batch = this.#queue.splice(0, this.#stagger.parallel);
    for (const vm of batch) {
      vm.start(vm.settings.owner).catch((error: Error) => {
        this.#log.warn(`could not be started: ${error.message}`, { vm: vm.name });
      });
    }
    if (this.#queue.length === 0) return;
    this.#timer = setTimeout(() => this.#batch(), this.#stagger.delay * 1000);
  }
}
