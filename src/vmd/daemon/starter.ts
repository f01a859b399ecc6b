/** Requests after which a VM runs that didn't: it is booted, goes on from a snapshot, or is a copy. */
import { closeSync } from "node:fs";
import { check, daemonLibrary } from "../../vmm/native.ts";
import type { RequestOf } from "../protocol.ts";
import type { WarmPool } from "../warm-process.ts";
import type { Templates } from "./fork.ts";
import type { Answer } from "./front-door.ts";
import type { ManagedVm } from "./managed-vm.ts";
import { checkRights, instanceSettings, isOwner } from "./permissions.ts";
import { notPermitted, RefusalError } from "./refusal.ts";
import { named, type Registry } from "./registry.ts";
import { requestedSettings } from "./requested.ts";
import type { Caller, Owner, VmSettings } from "./settings.ts";
import { openForCaller, restoredSettings, restoreLaunch } from "./snapshots.ts";
import type { StaggeredStart } from "./staggered.ts";

export interface StarterParts {
  readonly registry: Registry;
  /** VMs that wait for their turn. */
  readonly stagger: StaggeredStart;
  readonly pool: WarmPool;
  readonly templates: Templates;
}

export class Starter {
  readonly #registry: Registry;
  readonly #stagger: StaggeredStart;
  readonly #pool: WarmPool;
  readonly #templates: Templates;

  constructor({ registry, stagger, pool, templates }: StarterParts) {
    this.#registry = registry;
    this.#stagger = stagger;
    this.#pool = pool;
    this.#templates = templates;
  }

  /** A VM that is new, or that is there and stopped. @throws RefusalError */
  async start(
    request: RequestOf<"start">,
    caller: Caller,
    administrator: boolean,
  ): Promise<Answer> {
    const existing = this.#registry.find(request.vm);
    if (existing !== undefined) {
      if (existing.isUp) throw new RefusalError("EALREADY", "Operation already in progress");
      if (!administrator && !isOwner(caller, existing.settings.owner)) throw notPermitted();
      if (request.template !== undefined) {
        throw new RefusalError("EALREADY", `vm ${existing.name} is already there`);
      }
      return await this.#startExisting(existing, request, caller, administrator);
    }
    checkRights(request, administrator);
    if (typeof request.vm === "number") throw new RefusalError("ENOENT", "vm not found");
    const wanted = requestedSettings(request, request.vm, caller);
    let settings = wanted;
    if (request.template !== undefined) {
      const template = this.#registry.find(request.template)?.settings;
      settings = instanceSettings(template, request, wanted, caller, administrator);
    } else if (!administrator) {
      throw notPermitted();
    }
    requireBoot(settings);
    const vm = this.#registry.add(settings);
    let descriptor: number | undefined;
    try {
      descriptor = await vm.start(ownerOf(caller), request.attach);
    } catch (error) {
      if (!vm.isUp) this.#registry.remove(vm);
      throw error;
    }
    return { reply: started(vm), descriptor };
  }

  /** A VM that goes on from a snapshot. @throws RefusalError */
  async restore(
    request: RequestOf<"restore">,
    caller: Caller,
    administrator: boolean,
  ): Promise<Answer> {
    if (!administrator) throw notPermitted();
    const opened = openForCaller(request.path, request.verify, caller);
    let vm: ManagedVm;
    let before: VmSettings | undefined;
    const files: number[] = [];
    try {
      for (const { descriptor } of opened.inputs) {
        files.push(check("a snapshot", daemonLibrary().vmm_duplicate(descriptor)));
      }
      const settings = restoredSettings(opened.config, request, caller);
      const existing = this.#registry.find(settings.name);
      if (existing?.isUp === true) {
        throw new RefusalError("EALREADY", `vm ${settings.name} is already there`);
      }
      vm = existing ?? this.#registry.add(settings);
      if (existing !== undefined) {
        before = vm.settings;
        const { configured, owner, instances } = before;
        vm.settings = { ...settings, configured, owner, instances };
        this.#stagger.remove([existing]);
      }
    } catch (error) {
      for (const { descriptor } of opened.inputs) closeSync(descriptor);
      for (const file of files) closeSync(file);
      throw error;
    }
    const key = JSON.stringify([opened.identity, vm.settings.machine.engine]);
    try {
      const launch = { ...restoreLaunch(opened), prefetch: request.prefetch };
      const owner = ownerOf(caller);
      // One that is to be checked isn't in anybody's memory yet.
      const wanted = request.verify ? undefined : { key };
      const descriptor = await vm.start(owner, request.attach, launch, undefined, wanted);
      opened.used();
      // Who restores one will restore another.
      this.#pool.want(1, opened.config.engine);
      const message = vm.host.preparation();
      if (message !== undefined) {
        this.#pool.want(1, opened.config.engine, { key, message, files: files.splice(0) });
      }
      if (before !== undefined) void restoreWhenStopped(vm, before);
      const { prefetched = null } = vm;
      return { reply: { ...started(vm), prefetched }, descriptor };
    } catch (error) {
      if (before !== undefined) vm.settings = before;
      else if (!vm.isUp) this.#registry.remove(vm);
      throw error;
    } finally {
      for (const file of files) closeSync(file);
    }
  }

  /**
   * Copies of a VM that runs. Each is whoever's who asks; it has what the VM has, and its own addresses.
   * @throws RefusalError
   */
  async fork(
    request: RequestOf<"fork">,
    vm: ManagedVm,
    caller: Caller,
    administrator: boolean,
  ): Promise<Record<string, unknown>> {
    if (!administrator) throw notPermitted();
    for (const name of request.names) {
      if (this.#registry.find(name) !== undefined) {
        throw new RefusalError("EALREADY", `vm ${name} is already there`);
      }
    }
    using template = await this.#templates.make(vm, request, caller);
    const copies: Record<string, unknown>[] = [];
    let failure: string | null = null;
    for (const name of request.names) {
      const from = performance.now();
      let copy: ManagedVm | undefined;
      const start = async (one: ManagedVm) => {
        const launch = await template.launch();
        await one.start(ownerOf(caller), false, launch, undefined, template.wanted);
      };
      try {
        copy = this.#registry.add(template.settings(name));
        try {
          await start(copy);
        } catch (error) {
          if (!(await template.written).anew || copies.length > 0) throw error;
          // The VM was reset meanwhile: the one that got ready is gone.
          copy = this.#registry.add(template.settings(name));
          await start(copy);
        }
        template.prepare(copy.host);
      } catch (error) {
        if (copy?.isUp === false) this.#registry.remove(copy);
        await template.written;
        if (!(error instanceof RefusalError)) throw error;
        // The VM's disks are others already: that is no refusal.
        failure = `${name}: ${error.message}`;
        break;
      }
      copies.push({ ...named(copy), ms: performance.now() - from });
    }
    const { paused } = await template.written;
    return { ...named(vm), paused, copies, failure };
  }

  async #startExisting(
    vm: ManagedVm,
    request: RequestOf<"start">,
    caller: Caller,
    administrator: boolean,
  ): Promise<Answer> {
    // What is given for this start is for it alone.
    const before = vm.settings;
    const wanted = requestedSettings(request, vm.name, caller, before);
    // Its owner may choose what to boot from, not what it is.
    if (!administrator && wanted !== before && !onlyBootDevice(request)) throw notPermitted();
    requireBoot(wanted);
    this.#stagger.remove([vm]);
    vm.settings = wanted;
    let descriptor: number | undefined;
    try {
      descriptor = await vm.start(ownerOf(caller), request.attach);
    } catch (error) {
      vm.settings = before;
      throw error;
    }
    void restoreWhenStopped(vm, before);
    return { reply: started(vm), descriptor };
  }
}

/** What of a start request says nothing about the VM, or only what it boots from. */
const HARMLESS = new Set(["request", "vm", "attach", "bootDevice"]);

function onlyBootDevice(request: RequestOf<"start">): boolean {
  const given = Object.entries(request).filter(
    ([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0),
  );
  return given.every(([key]) => HARMLESS.has(key));
}

async function restoreWhenStopped(vm: ManagedVm, settings: VmSettings): Promise<void> {
  await vm.whenStopped();
  vm.settings = settings;
}

function started(vm: ManagedVm): Record<string, unknown> {
  const { engine, boot, tty, pid } = vm.status();
  return { ...named(vm), tty, pid, engine, boot };
}

function ownerOf({ uid }: Caller): Owner {
  return { uid };
}

function requireBoot({
  kernel,
  disks,
  cdrom,
}: {
  kernel?: object;
  disks: readonly object[];
  cdrom?: object;
}) {
  if (kernel === undefined && disks.length === 0 && cdrom === undefined) {
    throw new RefusalError("EINVAL", "no kernel or disk/cdrom specified");
  }
}
