/** The VMs of a daemon, and the ids that stay theirs. */
import { ManagedVm, type VmContext } from "./managed-vm.ts";
import { RefusalError } from "./refusal.ts";
import type { VmSettings } from "./settings.ts";

/** So many VMs that are gone are remembered. */
const REMEMBERED = 100;

export class Registry {
  readonly #vms = new Map<number, ManagedVm>();
  /** By name and owner: addresses follow from a VM's id, so that it keeps it when it comes again. */
  readonly #ids = new Map<string, number>();
  readonly #gone = new Map<number, ManagedVm>();
  readonly #context: VmContext;
  #lastId = 0;

  constructor(context: VmContext) {
    this.#context = context;
  }

  /** By id. */
  get all(): ManagedVm[] {
    return [...this.#vms.values()].sort((a, b) => a.id - b.id);
  }

  get size(): number {
    return this.#vms.size;
  }

  /** A VM by id or name. */
  find(reference: number | string): ManagedVm | undefined {
    if (typeof reference === "number") return this.#vms.get(reference);
    return this.all.find(({ name }) => name === reference);
  }

  /** @throws RefusalError */
  get(reference: number | string): ManagedVm {
    const vm = this.find(reference);
    if (vm === undefined) throw new RefusalError("ENOENT", "vm not found");
    return vm;
  }

  /** Adds a VM. @throws RefusalError when its name is taken. */
  add(settings: VmSettings): ManagedVm {
    if (this.find(settings.name) !== undefined) {
      throw new RefusalError("EALREADY", `vm ${settings.name} is already there`);
    }
    const key = `${settings.owner.uid}:${settings.name}`;
    let id = this.#ids.get(key);
    if (id === undefined || this.#vms.has(id)) {
      id = ++this.#lastId;
      this.#ids.set(key, id);
    }
    const vm = new ManagedVm(id, settings, this.#context);
    this.#vms.set(id, vm);
    return vm;
  }

  remove(vm: ManagedVm): void {
    this.#vms.delete(vm.id);
    if (vm.lastEnding === undefined) return;
    this.#gone.set(vm.id, vm);
    const [oldest] = this.#gone.keys();
    if (this.#gone.size > REMEMBERED) this.#gone.delete(oldest);
  }

  /** A VM that was there not long ago, by its id: somebody may want to know how it ended. */
  findGone(reference: number | string): ManagedVm | undefined {
    return typeof reference === "number" ? this.#gone.get(reference) : undefined;
  }
}

/** A VM, as replies name it. */
export function named(vm: ManagedVm): { vm: number; name: string } {
  return { vm: vm.id, name: vm.name };
}
