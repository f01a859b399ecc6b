/** What the daemon does for VMs that go elsewhere, or come from there. */
import { closeSync } from "node:fs";
import type { RequestOf } from "../protocol.ts";
import { parseConfig } from "../snapshot/config.ts";
import { SnapshotError } from "../../vmm/snapshot/format.ts";
import type { Answer } from "./front-door.ts";
import { Incoming } from "./incoming.ts";
import type { ManagedVm } from "./managed-vm.ts";
import { RefusalError } from "./refusal.ts";
import type { Registry } from "./registry.ts";
import { receivedSettings } from "./received-settings.ts";
import type { Caller } from "./settings.ts";

export function send(request: RequestOf<"send">, vm: ManagedVm): Answer {
  const descriptor = vm.send(request);
  return { reply: { vm: vm.id, name: vm.name }, descriptor };
}

/** How far a VM is on its way; it may have gone meanwhile. */
export async function progress(after: number, vm: ManagedVm): Promise<Answer> {
  return { reply: { vm: vm.id, name: vm.name, events: await vm.moving.outgoing.after(after) } };
}

/**
 * Begins to receive a VM. What becomes of it comes out of the descriptor.
 * @param settled told when that is known: the VM runs, or is none
 * @throws RefusalError
 */
export async function receive(
  request: RequestOf<"receive">,
  caller: Caller,
  registry: Registry,
  settled: (vm: ManagedVm, error?: unknown) => void,
): Promise<Answer> {
  const config = configOf(request.config);
  const existing = registry.find(request.vm);
  if (existing?.isUp === true) {
    throw new RefusalError("EALREADY", `vm ${request.vm} is already there`);
  }
  const before = existing?.settings;
  const settings = receivedSettings(config, request, caller, before);
  const vm = existing ?? registry.add(settings);
  vm.settings = settings;
  const incoming = new Incoming(config, request.answers);
  const { uid } = caller;
  const started = vm.start({ uid }, false, incoming.launch, incoming);
  const settle = async () => {
    try {
      await started;
      settled(vm);
      await vm.whenStopped();
    } catch (error) {
      if (before === undefined && !vm.isUp) registry.remove(vm);
      settled(vm, error);
    }
    // What came is for this time alone.
    if (before !== undefined) vm.settings = before;
  };
  void settle();
  try {
    await Promise.race([incoming.begun, started]);
  } catch (error) {
    closeSync(incoming.descriptor);
    throw error;
  }
  return {
    reply: { vm: vm.id, name: vm.name, tty: vm.tty, memory: settings.memory },
    descriptor: incoming.descriptor,
  };
}

function configOf(text: string) {
  try {
    const config = parseConfig(new TextEncoder().encode(text));
    if (config.base === undefined) return config;
  } catch (error) {
    if (!(error instanceof SnapshotError)) throw error;
    throw new RefusalError("EINVAL", error.message);
  }
  throw new RefusalError("EINVAL", "it is based on another snapshot: merge them first");
}
